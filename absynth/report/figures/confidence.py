"""How sure models are of test images, of other images and of noise, and how well that tells these apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.data import load_dataset
from absynth.data.catalog import FASHION_MNIST
from absynth.data.fetch import cache_folder
from absynth.errors import AbsynthError
from absynth.evaluate.tasks import choose_images, weights_hash
from absynth.inference.decision import probabilities
from absynth.models.pretrained import device_of
from absynth.report.drawing import Panel, Section, new_figure
from absynth.shapes import Images

MODELS = ("cnn", "madry", "abs")
SAMPLE = 100
BINS = 20
DIGITS, FASHION, NOISE = "digits", "Fashion-MNIST", "noise"
LOOKS = {FASHION: ("#D55E00", "--"), NOISE: ("#808080", ":")}
INSIDE_LOOK = ("#0072B2", "-")


def confidences(model: nn.Module, images: Images) -> Float[Tensor, "batch"]:
    """The probability of the most likely class of each image (float64)."""
    found = probabilities(model, images.to(device_of(model))).amax(dim=1)
    return found.double().cpu()


def area_under_curve(inside: Float[Tensor, "images"], outside: Float[Tensor, "others"]) -> float:
    """The chance that a random inside image gets more confidence than a random outside one; a tie is half.

    This is the area under the receiver operating characteristic (Mann and Whitney's U, normalised).

    >>> area_under_curve(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.8]))
    0.875
    """
    difference = inside[:, None] - outside[None]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def fashion_images(count: int, seed: int) -> Images:
    """Random test images of Fashion-MNIST, if it lies intact in the cache; nothing is downloaded.

    Raises:
        AbsynthError: If it does not.
    """
    folder = cache_folder(FASHION_MNIST.name)
    for file, digest in FASHION_MNIST.hashes().items():
        path = folder / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise AbsynthError(
                f"{FASHION_MNIST.name} is not on this machine; run 'absynth data fetch {FASHION_MNIST.name}'."
            )
    images, _ = load_dataset(FASHION_MNIST.name, "test")
    return images[list(choose_images(len(images), count, seed))]


def confidence_section(
    key: str,
    title: str,
    load_model: Callable[[str], nn.Module],
    images: Tensor,
    seed: int,
    models: Sequence[str] = MODELS,
    inside: str = DIGITS,
) -> Section:
    """Histograms of the confidence, one panel a model.

    Args:
        key: Anchor.
        title: Heading.
        load_model: Gives a model by its name.
        images: The test images, shape (images, height, width).
        seed: Of the choice of images and of the noise.
        models: Which models.
        inside: What the test images are called; digits are set beside clothes too.
    """
    remarks: list[str] = []
    count = min(SAMPLE, len(images))
    kinds = {inside: images[list(choose_images(len(images), count, seed))][:, None]}
    if inside == DIGITS:
        try:
            kinds[FASHION] = fashion_images(count, seed)
        except AbsynthError as error:
            remarks.append(f"{FASHION} is left out: {error}")
    generator = torch.Generator().manual_seed(seed)
    kinds[NOISE] = torch.rand(kinds[inside].shape, generator=generator)
    panels, weights = [], []
    for number, name in enumerate(models):
        try:
            model = load_model(name)
        except AbsynthError as error:
            remarks.append(f"{name} is left out: {error}")
            continue
        found = {kind: confidences(model, pictures) for kind, pictures in kinds.items()}
        # A path is no name for a file.
        panels.append(_panel(name if inside == DIGITS else str(number + 1), name, found))
        weights.append(f"{name} {weights_hash(model)[:12]}")
    caption = (
        f"The confidence in the most likely class, of {count} test images each, drawn at random (seed "
        f"{seed}), and of as many images of independent uniform pixels. The area under the curve (AUC) is "
        f"the chance that {'a digit' if inside == DIGITS else 'a test image'} gets more confidence than an "
        f"image that is none: 1 tells them apart, 0.5 is a guess. Weights: {', '.join(weights)}."
    )
    return Section(key, title, caption, tuple(panels), tuple(remarks))


def _panel(key: str, model: str, found: dict[str, Tensor]) -> Panel:
    figure = new_figure(3.5, 3.1)
    axes = figure.subplots()
    words = []
    inside = next(iter(found))
    for kind, values in found.items():
        colour, line = LOOKS.get(kind, INSIDE_LOOK)
        name = kind
        if kind != inside:
            area = area_under_curve(found[inside], values)
            name = f"{kind}, AUC {area:.3f}"
            words.append(name)
        axes.stairs(_shares(values), _edges(), color=colour, linestyle=line, label=name, linewidth=1.6)
        axes.stairs(_shares(values), _edges(), color=colour, fill=True, alpha=0.15)
    axes.set(title=model, xlabel="confidence", ylabel="images, %", xlim=(0, 1), ylim=(0, 101))
    axes.grid(alpha=0.2, linewidth=0.5)
    figure.legend(loc="outside lower center", frameon=False)
    return Panel(f"confidence-{key}", figure, f"Histograms of the confidence of {model}; {'; '.join(words)}.")


def _edges() -> Sequence[float]:
    return [place / BINS for place in range(BINS + 1)]


def _shares(values: Tensor) -> Sequence[float]:
    """The percentage of values in each bin; a confidence of exactly 1 is in the last."""
    counts = (values.float() * BINS).long().clamp(max=BINS - 1).bincount(minlength=BINS)
    shares: Sequence[float] = (100 * counts / len(values)).tolist()
    return shares
