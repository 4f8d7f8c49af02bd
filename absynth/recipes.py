"""How the shipped models are trained, from images to a saved folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from absynth.adversarial import Adversary, measure_robustness
from absynth.data.domain import FEWEST_CLASSES, MOST_CLASSES, Domain
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.files import write_bytes
from absynth.inference import ABS, PAPER, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized, StridedCNN, binarize
from absynth.models.confidence import fit_alpha
from absynth.models.pretrained import (
    PretrainedModel,
    load_folder,
    read_config,
    read_weights,
    round_to_half,
)
from absynth.models.vae import VAE, Posterior
from absynth.progress import Progress
from absynth.rounds import ROUNDS, training_margins
from absynth.shapes import Images, Labels, Losses
from absynth.training import (
    FitVAEs,
    Perturbation,
    TrainingSettings,
    augment,
    bend,
    cross_entropy,
    distort,
    fit,
    fit_in_turn,
    train_vaes,
)

CODEBOOK_SIZE = 8000
CODEBOOK_VALUES = 8000 * 10 * 784
"""Pixels of all prototypes of a codebook, 250 MB: with more classes or larger images it has fewer of them."""

FEWEST_PROTOTYPES = 500
"""A class has so many, whatever memory that takes."""

ENCODERS_NAME = "encoders.safetensors"
MARGINS_NAME = "margins.safetensors"
FAST = SearchSettings(method="quasi-newton", steps=12, tolerance=0.02, margin=10.0, fold_batch_norm=True)
"""The default inference: as low as the paper's, in fewer steps and for the best two classes and near ones."""

CONFIDENCE_IMAGES = 500
"""Images that the sharpness of the confidence is fitted on, for other data than MNIST."""

FACTOR_IMAGES = 10000
"""Training images that the class factors of Binary ABS are fitted on."""

DEFAULTS = {
    "abs": TrainingSettings(
        epochs=120,
        batch_size=64,
        learning_rate=2e-3,
        seed=0,
        emphasis=2.0,
        rounds=len(ROUNDS),
        least_steps=400,
    ),
    "cnn": TrainingSettings(epochs=8, batch_size=128, learning_rate=1e-3, seed=0, least_steps=400),
    "binary-cnn": TrainingSettings(epochs=8, batch_size=128, learning_rate=1e-3, seed=0, least_steps=400),
    "madry": TrainingSettings(epochs=12, batch_size=128, learning_rate=2e-3, seed=0, least_steps=400),
}
"""For MNIST; with fewer images the least number of steps decides."""

VALIDATION_SHARE = 0.1
"""Of the training images that is held out unless something else is asked for; none of MNIST's."""

TRAINER = Adversary(epsilon=0.3, steps=3, reach=2.5, warm_up=0.3)
"""What the recipe "madry" trains against; in two minutes of training, three steps led further than five."""

EXAMINER = Adversary(epsilon=0.3, steps=40, reach=2.0)
"""What it is measured with after an epoch: steps of 0.015."""


@dataclass(frozen=True)
class Goal:
    """What ends adversarial training before its last epoch, measured on images that it does not train on.

    Attributes:
        clean: Fraction to be classified right as they are.
        attacked: Fraction to be classified right under every ascent of ``EXAMINER``.
        images: How many training images are held out, a tenth of them at most.
        restarts: Ascents against each of them.
    """

    clean: float = 0.986
    attacked: float = 0.905
    images: int = 1000
    restarts: int = 3


GOAL = Goal()


def train_abs(
    images: Images,
    labels: Labels,
    settings: TrainingSettings,
    *,
    folder: Path,
    progress: Progress,
    perturbation: Perturbation | None = None,
    start: Path | None = None,
    fit_vaes: FitVAEs = fit_in_turn,
) -> tuple[PretrainedModel, dict[str, Any]]:
    """ABS: one VAE a class, of which the decoder classifies; the encoders are stored beside it.

    After the first training come ``settings.rounds`` more, in each of which the images count more that the
    models before it could lose to another class (:mod:`absynth.rounds`).

    Args:
        images: Training images.
        labels: Their classes, 0 to the largest.
        settings: Of every VAE.
        folder: For the checkpoints.
        progress: Where to show the training.
        perturbation: Applied to every batch (augmentation).
        start: Folder of an ABS trained before, to go on from.
        fit_vaes: Where the VAEs are trained; by default in this process, one after the other. What is done
            between the rounds is always done in this process.

    Returns:
        The model, and the last loss of every VAE.
    """
    classes = int(labels.max()) + 1
    first = replace(settings, rounds=0)
    train_all = partial(
        train_vaes,
        images,
        labels,
        classes=classes,
        progress=progress,
        perturbation=perturbation,
        fit_vaes=fit_vaes,
    )
    vaes, histories = train_all(first, folder=folder, start=None if start is None else read_vaes(start))
    margins = images.new_full((len(images),), torch.inf)
    for number, further in enumerate(ROUNDS[: settings.rounds], 1):
        name = f"round-{number}"
        measured = _kept_margins(folder / name, vaes, images, labels, settings.seed, progress)
        # An image that was at stake once keeps its weight, or a round would undo what the last one reached.
        margins = torch.minimum(margins, measured)
        epochs = max(1, round(further.epochs * settings.epochs))
        vaes, histories = train_all(
            replace(
                first,
                epochs=epochs,
                learning_rate=further.rate * settings.learning_rate,
                least_steps=round(further.epochs * settings.least_steps),
            ),
            folder=folder / name,
            start=vaes,
            importance=further.importance(margins),
        )
    write_encoders(folder.parent, vaes)
    model = _classifier(vaes, settings.seed)
    return model, {"final_loss": [round(history[-1], 3) for history in histories]}


def fast_settings(pixels: int) -> SearchSettings:
    """``FAST`` for images of a size: losses are sums over pixels, so those of larger ones differ more."""
    return replace(FAST, margin=FAST.margin * max(1.0, pixels / 784))


def codebook_size(classes: int, pixels: int) -> int:
    """Prototypes a class: ``CODEBOOK_SIZE``, or as many as ``CODEBOOK_VALUES`` allow.

    >>> codebook_size(10, 784), codebook_size(40, 32 * 32), codebook_size(100, 64 * 64)
    (8000, 1531, 500)
    """
    return min(CODEBOOK_SIZE, max(FEWEST_PROTOTYPES, CODEBOOK_VALUES // (classes * pixels)))


def _classifier(vaes: Sequence[VAE], seed: int) -> ABS:
    height, width = vaes[0].decoder.image_size
    latents = draw_latents(codebook_size(len(vaes), height * width), seed=seed)
    settings = fast_settings(height * width)
    return ABS(CodebookABS([vae.decoder for vae in vaes], latents), settings)


def _kept_margins(
    folder: Path, vaes: Sequence[VAE], images: Images, labels: Labels, seed: int, progress: Progress
) -> Float[Tensor, "batch"]:
    """The margins of training images, measured once and kept beside the checkpoints that follow from them."""
    path = folder / MARGINS_NAME
    if path.exists():
        kept = read_weights(path).get("margins")
        if kept is None or kept.shape != (len(images),):
            raise AbsynthError(f"The margins {path} are damaged; delete them to measure them again.")
        return kept
    model = _classifier(vaes, seed)
    model.prepare()
    margins = training_margins(model.eval(), images, labels, progress)
    write_bytes(path, save({"margins": margins}))
    return margins


def write_encoders(folder: Path, vaes: Sequence[VAE]) -> None:
    """Stores the encoders, which the classifier does not need, in a file of their own."""
    encoders = nn.ModuleList(vae.encoder for vae in vaes)
    tensors = {name: tensor.contiguous() for name, tensor in encoders.state_dict().items()}
    write_bytes(folder / ENCODERS_NAME, save(tensors))


def read_vaes(folder: Path) -> list[VAE]:
    """The whole VAEs of an ABS that :func:`train` saved.

    Raises:
        AbsynthError: If the folder holds none, or only what was derived from one.
    """
    model = load_folder(folder, {"settings": PAPER.to_json()})
    if not isinstance(model, ABS):
        raise AbsynthError(f"{folder} holds no ABS to go on from; name the folder of one.")
    size = model.codebook.image_size
    vaes = [VAE(model.codebook.latents.shape[2], size) for _ in model.codebook.decoders]
    encoders = nn.ModuleList(vae.encoder for vae in vaes)
    try:
        encoders.load_state_dict(read_weights(folder / ENCODERS_NAME))
        for vae, decoder in zip(vaes, model.codebook.decoders, strict=True):
            vae.decoder.load_state_dict(decoder.state_dict())
    except RuntimeError:
        raise AbsynthError(
            f"The encoders or decoders in {folder} are not as training left them; name a folder it wrote."
        ) from None
    return vaes


def train_cnn(
    images: Images,
    labels: Labels,
    settings: TrainingSettings,
    *,
    folder: Path,
    progress: Progress,
    perturbation: Perturbation | None = None,
    binary: bool = False,
) -> tuple[PretrainedModel, dict[str, Any]]:
    """The plain CNN, by cross-entropy.

    Args:
        images: Training images.
        labels: Their classes, 0 to the largest.
        settings: Of the training.
        folder: For the checkpoint.
        progress: Where to show the training.
        perturbation: Applied to every batch (augmentation), before the threshold.
        binary: Put the threshold at ½ in front of it.

    Returns:
        The model, and its last loss.
    """
    classes = int(labels.max()) + 1
    height, width = images.shape[2:]
    make = partial(CNN, classes, (height, width))
    model, history = fit(
        (lambda: Binarized(make())) if binary else make,
        images,
        labels,
        cross_entropy,
        settings,
        checkpoint=folder / ("binary-cnn.pt" if binary else "cnn.pt"),
        progress=progress,
        description="Binary CNN" if binary else "CNN",
        perturbation=perturbation,
    )
    assert isinstance(model, CNN | Binarized)
    return model, {"final_loss": round(history[-1], 5)}


def train_madry(
    images: Images,
    labels: Labels,
    settings: TrainingSettings,
    *,
    folder: Path,
    progress: Progress,
    perturbation: Perturbation | None = None,
    goal: Goal = GOAL,
) -> tuple[PretrainedModel, dict[str, Any]]:
    """A CNN trained against Linf perturbations of 0.3 (Madry et al. 2018), until it is good enough.

    From the end of the warm-up on, every epoch is followed by a measurement on images held out of the
    training images, and training stops when the goal is met. The radius and the learning rate follow their
    schedules over all of ``settings.epochs``, since the stop cannot be foreseen: fewer epochs bring
    both to their end sooner, and a run that missed its goal starts anew with more of them.

    Args:
        images: Training images.
        labels: Their classes, 0 to the largest.
        settings: Of the training; its epochs are the most that are run.
        folder: For the checkpoint.
        progress: Where to show the training and the measurements.
        perturbation: Applied to every batch before it is attacked (augmentation).
        goal: When to stop.

    Returns:
        The model, and its last loss, the epochs run and the accuracies on the images held out.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed))
    held_out, trained = order.tensor_split([min(goal.images, max(1, len(images) // 10))])
    measure = partial(
        measure_robustness,
        images=images[held_out],
        labels=labels[held_out],
        adversary=EXAMINER,
        restarts=goal.restarts,
        seed=settings.seed,
        progress=progress,
    )

    def finished(network: nn.Module, share: float) -> bool:
        if share < TRAINER.warm_up:
            return False
        found = measure(network)
        return found.clean >= goal.clean and found.attacked >= goal.attacked

    classes = int(labels.max()) + 1
    height, width = images.shape[2:]
    model, history = fit(
        partial(StridedCNN, classes, (height, width)),
        images[trained],
        labels[trained],
        cross_entropy,
        settings,
        checkpoint=folder / "madry.pt",
        progress=progress,
        description="CNN under attack",
        perturbation=perturbation,
        adversary=TRAINER,
        finished=finished,
    )
    assert isinstance(model, StridedCNN)
    round_to_half(model)
    found = measure(model)
    return model, {
        "final_loss": round(history[-1], 5),
        "epochs_run": len(history),
        "adversary": asdict(TRAINER),
        "goal": asdict(goal),
        "held_out": {
            "images": len(held_out),
            "accuracy": found.clean,
            "attacked_accuracy": found.attacked,
            "attack": {**asdict(EXAMINER), "restarts": goal.restarts},
        },
    }


RECIPES: dict[str, Callable[..., tuple[PretrainedModel, dict[str, Any]]]] = {
    "abs": train_abs,
    "cnn": train_cnn,
    "binary-cnn": partial(train_cnn, binary=True),
    "madry": train_madry,
}

PERTURBATIONS: dict[str, Perturbation] = {
    "abs": distort,
    "cnn": augment,
    "binary-cnn": augment,
    "madry": augment,
}
"""What augmentation does in each recipe."""


def training_settings(
    name: str,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    emphasis: float | None = None,
    rounds: int | None = None,
) -> TrainingSettings:
    """The default settings of a recipe, with those replaced that are given.

    Epochs that are given are kept to, however few steps they make.

    Raises:
        AbsynthError: If there is no such recipe or a setting makes no sense.
    """
    if name not in RECIPES:
        raise AbsynthError(f"There is no recipe '{name}'; choose one of {', '.join(RECIPES)}.")
    if (emphasis is not None or rounds is not None) and name != "abs":
        raise AbsynthError(f"The recipe '{name}' trains no VAEs; leave the emphasis and the rounds out.")
    if rounds is not None and not 0 <= rounds <= len(ROUNDS):
        raise AbsynthError(f"There is no round {rounds} of training; ask for 0 to {len(ROUNDS)}.")
    given: dict[str, Any] = {
        "epochs": epochs,
        "least_steps": None if epochs is None else 0,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "emphasis": emphasis,
        "rounds": rounds,
    }
    return replace(
        DEFAULTS[name], seed=seed, **{key: value for key, value in given.items() if value is not None}
    )


@torch.no_grad()
def accuracy(
    model: nn.Module, images: Images, labels: Labels, *, progress: Progress, batch_size: int = 256
) -> float:
    """The fraction of images that the model classifies right."""
    task = progress.add_task("clean accuracy", total=len(images), note="")
    right = 0
    for rows in torch.arange(len(images)).split(batch_size):
        right += int((model(images[rows]).argmax(1) == labels[rows]).sum())
        progress.update(task, advance=len(rows))
    return right / len(images)


def train(
    name: str,
    images: Images,
    labels: Labels,
    settings: TrainingSettings,
    *,
    out: Path,
    command: str,
    progress: Progress,
    augmented: bool = False,
    start: Path | None = None,
    domain: Domain | None = None,
    validation: Validation | None = None,
    fit_vaes: FitVAEs | None = None,
) -> PretrainedModel:
    """Trains a named model and saves it, with the command that made it, into ``out``.

    An interrupted run goes on where it was when it is started again with the same ``out``.

    Args:
        name: One of ``RECIPES``.
        images: Training images.
        labels: Their classes.
        settings: How long and how fast.
        out: Folder of the finished model; checkpoints lie in its ``checkpoints``.
        command: Stored beside the weights.
        progress: Where to show the training.
        augmented: Change the images a little, anew each time they are seen, as ``PERTURBATIONS`` say.
        start: Folder of a trained ABS to go on from, instead of from nothing.
        domain: What the images are, kept in the model's config; by default classes called by their numbers.
        validation: Which images to hold out and measure the accuracy on; by default none.
        fit_vaes: Where the VAEs of an ABS are trained; by default in this process, one after the other.

    Raises:
        AbsynthError: If there is no such recipe, or not at least 2 classes of at least one image each.
    """
    if name not in RECIPES:
        raise AbsynthError(f"There is no recipe '{name}'; choose one of {', '.join(RECIPES)}.")
    if len(images) == 0:
        raise AbsynthError("There are no training images; name a data set that has some.")
    if start is not None and name != "abs":
        raise AbsynthError(f"The recipe '{name}' always starts from nothing; leave the start out.")
    of_vaes = {"start": start, "fit_vaes": fit_vaes}
    domain = check_classes(images, labels, domain)
    chosen = validation or Validation()
    trained, held_out = chosen.split(labels)
    model, metrics = RECIPES[name](
        images[trained],
        labels[trained],
        settings,
        folder=out / "checkpoints",
        progress=progress,
        perturbation=PERTURBATIONS[name] if augmented else None,
        **{key: value for key, value in of_vaes.items() if value is not None},
    )
    model.domain = domain
    record = {"command": command, **vars(settings), "augmented": augmented, "images": len(trained), **metrics}
    # What is saved is not yet prepared: folding batch norm cannot be undone.
    ready = deepcopy(model)
    ready.prepare()
    if isinstance(model, ABS) and isinstance(ready, ABS) and not domain.digits:
        model.codebook.alpha = ready.codebook.alpha = fit_sharpness(
            ready.eval(), images, held_out if len(held_out) else trained
        )
    record |= validate(ready, images[held_out], labels[held_out], chosen, progress)
    model.save_pretrained(out, record)
    return ready.requires_grad_(False)


def check_classes(images: Images, labels: Labels, domain: Domain | None = None) -> Domain:
    """What a model of these images is for.

    Args:
        images: Training images.
        labels: Their classes.
        domain: What is known of them; by default the classes are called by their numbers.

    Raises:
        AbsynthError: If a class has no images, or there are not 2 to 100 classes.
    """
    height, width = images.shape[2:]
    if domain is None:
        domain = Domain(tuple(str(number) for number in range(int(labels.max()) + 1)), (height, width))
    names = domain.class_names
    if not FEWEST_CLASSES <= len(names) <= MOST_CLASSES:
        raise AbsynthError(
            f"There are {len(names)} classes to tell apart; give {FEWEST_CLASSES} to {MOST_CLASSES}."
        )
    empty = (labels.bincount(minlength=len(names)) == 0).nonzero()[:, 0]
    if len(empty):
        raise AbsynthError(
            f"The class '{names[int(empty[0])]}' has no training images; give it some or leave it out."
        )
    return domain


@torch.no_grad()
def fit_sharpness(model: ABS | CodebookABS, images: Images, rows: Int64[Tensor, "some"]) -> float:
    """The sharpness of a confidence for data other than MNIST, by how well the model explains such images.

    Args:
        model: Ready to classify.
        images: All images.
        rows: Those that are like what it will see; at most ``CONFIDENCE_IMAGES`` of them are looked at.
    """
    few = images[rows[:: math.ceil(len(rows) / CONFIDENCE_IMAGES)]]
    explain = model.losses if isinstance(model, CodebookABS) else lambda some: model.infer(some).losses
    return fit_alpha(torch.cat([explain(some) for some in few.split(100)]), few[0].numel())


def validate(
    model: PretrainedModel, images: Images, labels: Labels, validation: Validation, progress: Progress
) -> dict[str, Any]:
    """The entry of a training record for the accuracy on the images held out; none if there are none.

    Args:
        model: Ready to classify.
        images: That were held out.
        labels: Their classes.
        validation: How they were chosen.
        progress: Where to show the inference.
    """
    model.eval()
    if len(images) == 0:
        return {}
    right = accuracy(model, images, labels, progress=progress)
    return {"validation": {**vars(validation), "images": len(images), "accuracy": right}}


def read_validation(base: Path) -> Validation:
    """Which images were held out when the model in a folder was trained."""
    try:
        record = read_config(base).get("training", {}).get("validation", {})
        return Validation(float(record.get("share", 0.0)), int(record.get("seed", 0)))
    except (AttributeError, TypeError):
        raise AbsynthError(
            f"The config in {base} does not say what was held out as training wrote it; train it again."
        ) from None


def fit_class_factors(losses: Losses, labels: Labels) -> list[float]:
    """Factors on the classes' losses, of mean 1, that make the true class the likeliest.

    Maximises the likelihood of softmax(−f_c s_c) over the factors f ≥ 0; their common scale, the sharpness,
    is divided out, as it changes no decision.

    Args:
        losses: s_c of training images.
        labels: Their classes.

    >>> fit_class_factors(torch.tensor([[1.0, 2.0], [2.1, 2.0]] * 9), torch.tensor([0, 1] * 9))[1] < 1
    True
    """
    logarithms = torch.zeros(losses.shape[1], dtype=torch.float64, requires_grad=True)
    scaled = losses.double() / losses.double().mean()
    optimizer = torch.optim.LBFGS([logarithms], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # The weak pull towards 1 keeps factors finite where the classes can be told apart perfectly.
        value = (
            functional.cross_entropy(-scaled * logarithms.exp(), labels) + 1e-4 * logarithms.square().sum()
        )
        value.backward()
        return value

    optimizer.step(closure)
    factors = logarithms.detach().exp()
    return [round(value, 4) for value in (factors / factors.mean()).tolist()]


def train_binary_abs(
    base: nn.Module,
    images: Images,
    labels: Labels,
    *,
    seed: int,
    out: Path,
    command: str,
    progress: Progress,
    validation: Validation | None = None,
) -> PretrainedModel:
    """Binary ABS: the decoders of ABS behind the threshold, with class factors fitted on training images.

    The images are bent a little before (:func:`absynth.training.bend`): the VAEs know the training images too
    well to be wrong on them as often, and in the same way, as on new ones.

    Args:
        base: A trained ABS.
        images: Training images, of which up to ``FACTOR_IMAGES`` are drawn.
        labels: Their classes.
        seed: Of the draw.
        out: Folder of the finished model.
        command: Stored beside the weights.
        progress: Where to show the inference.
        validation: Which images to hold out, as for the base; by default none.

    Raises:
        AbsynthError: If the base is no ABS.
    """
    if not isinstance(base, ABS):
        raise AbsynthError("Binary ABS takes its decoders from a trained ABS; name one as the base.")
    split = validation or Validation()
    trained, held_out = split.split(labels)
    generator = torch.Generator().manual_seed(seed)
    chosen = trained[torch.randperm(len(trained), generator=generator)[:FACTOR_IMAGES]]
    task = progress.add_task("class factors", total=len(chosen), note="")
    losses = []
    for rows in chosen.split(250):
        with torch.no_grad():
            losses.append(base.infer(binarize(bend(images[rows], generator))).losses)
        progress.advance(task, len(rows))
    model = Binarized(ABS(base.codebook, base.settings, fit_class_factors(torch.cat(losses), labels[chosen])))
    model.domain = base.domain
    record = {"command": command, "seed": seed, "images": len(chosen)}
    record |= validate(model, images[held_out], labels[held_out], split, progress)
    model.save_pretrained(out, record)
    return model.requires_grad_(False)


@torch.no_grad()
def posteriors(vae: VAE, images: Images) -> Posterior:
    """What the encoder of a class says of images of that class, a bounded number at a time.

    Args:
        vae: In evaluation mode.
        images: At least one.
    """
    parts = [vae.encoder(some) for some in images.split(1000)]
    return Posterior(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def posterior_latents(
    vae: VAE, images: Images, count: int, generator: torch.Generator
) -> Float[Tensor, "prototype latent"]:
    """Latents that explain training images: the posterior means, then draws from the posteriors.

    Args:
        vae: Of one class.
        images: Training images of that class.
        count: How many latents.
        generator: Source of the order of the images and of the draws.

    Raises:
        AbsynthError: If there are no images.
    """
    everyone = torch.ones(len(images), dtype=torch.bool)
    return codebook_latents(posteriors(vae, images), everyone, count, generator)


def codebook_latents(
    posterior: Posterior, members: Bool[Tensor, "batch"], count: int, generator: torch.Generator
) -> Float[Tensor, "prototype latent"]:
    """Latents that explain the images of a class: the posterior means, then draws from the posteriors.

    The means of the images themselves come first, in a random order, then those of their copies.

    Args:
        posterior: Of every image, and perhaps of copies of all of them in the same order.
        members: Which images are of the class.
        count: How many latents.
        generator: Source of the order and of the draws.

    Raises:
        AbsynthError: If the class has no images.
    """
    own = members.nonzero()[:, 0]
    if len(own) == 0:
        raise AbsynthError("A class has no training images to take latents from; every class needs some.")
    copies = len(posterior.mean) // len(members)
    order = torch.cat(
        [own[torch.randperm(len(own), generator=generator)] + len(members) * copy for copy in range(copies)]
    )
    noise = torch.randn(count, posterior.mean.shape[1], generator=generator)
    noise[: len(order)] = 0
    rows = order[torch.arange(count) % len(order)]
    return Posterior(posterior.mean[rows], posterior.log_variance[rows]).at(noise)
