"""Figure 1: what ABS does to one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.data.domain import DIGITS
from absynth.errors import AbsynthError
from absynth.evaluate.tasks import choose_images, weights_hash
from absynth.inference.abs import ABS, Synthesis
from absynth.inference.latent import descend, reconstruction_loss
from absynth.models.front import unwrap
from absynth.models.pretrained import domain_of
from absynth.models.vae import Decoder
from absynth.report.drawing import (
    MUTED,
    STYLES,
    Panel,
    Section,
    draw_image,
    finish_sheet,
    image_sheet,
    new_figure,
    shorten,
)
from absynth.shapes import Images

COLOUR = STYLES["abs"][0]
MOST_CLASSES = 12
"""Beside each other."""

MOST_POINTS = 26
"""Lengths of the search at which the losses are drawn."""


@dataclass(frozen=True)
class Explanation:
    """How every class explains one image, and how the search got there.

    Attributes:
        starts: Image of the best latent of each class's codebook, shape (class, height, width).
        lengths: Numbers of steps.
        losses: Of each class after so many steps, shape (length, class).
        synthesis: What the inference says in the end, of this one image, every class refined.
    """

    starts: Float[Tensor, "class height width"]
    lengths: tuple[int, ...]
    losses: Float[Tensor, "length class"]
    synthesis: Synthesis


def explain(model: ABS, image: Images) -> Explanation:
    """Runs the inference on one image, every class refined, and the search again in shorter lengths.

    Args:
        model: The classifier; it is left as it is.
        image: Shape (1, 1, height, width).
    """
    settings = replace(model.settings, margin=math.inf)
    full = ABS(model.codebook, settings, model.class_factors).eval()
    stride = math.ceil(max(settings.steps, 1) / (MOST_POINTS - 1))
    lengths = tuple(sorted({*range(0, settings.steps, stride), settings.steps}))
    chosen = model.codebook.nearest(image)[0]
    losses, starts = [], []
    for label, decoder in enumerate(model.codebook.decoders):
        assert isinstance(decoder, Decoder)
        latents = model.codebook.latents
        start = latents[min(label, len(latents) - 1)][chosen[label]][None]
        starts.append(model.codebook.decode(label, start)[0, 0])
        found = [descend(decoder, image, start, replace(settings, steps=length)) for length in lengths]
        with torch.no_grad():
            by_length = [reconstruction_loss(image, decoder(latent), latent)[0] for latent in found]
        losses.append(torch.stack(by_length) * model.class_factors[label])
    with torch.no_grad():
        synthesis = full.infer(image)
    return Explanation(torch.stack(starts), lengths, torch.stack(losses, dim=1), synthesis)


def synthesis_section(
    key: str,
    title: str,
    load_model: Callable[[str], nn.Module],
    images: Tensor,
    seed: int,
    name: str = "abs",
) -> Section:
    """Figure 1, for a random image.

    Args:
        key: Anchor.
        title: Heading.
        load_model: Gives the model by its name.
        images: The test images, shape (images, height, width).
        seed: Of the choice.
        name: Of the model.

    Raises:
        AbsynthError: If the model cannot be had, or does not search latents.
    """
    loaded = load_model(name)
    model = unwrap(loaded)
    if not isinstance(model, ABS):
        raise AbsynthError(f"the model '{name}' does not search latents.")
    names = (domain_of(loaded) or DIGITS).class_names
    (index,) = choose_images(len(images), 1, seed)
    image = images[index][None, None]
    explanation = explain(model, image)
    decision = int(explanation.synthesis.losses[0].argmin())
    confidence = float(explanation.synthesis.probabilities[0, decision])
    caption = (
        f"Test image {index}, drawn at random (seed {seed}), and the model '{name}' (weights "
        f"{weights_hash(model)[:12]}). Each class looks for the latent whose image comes closest: "
        "above, the best of its fixed latents; beneath, after the search; below, the loss at both, "
        "‖x - G(z)‖² + ½‖z‖². The class with the smallest loss is the decision, framed: "
        f"{names[decision]}, with confidence {confidence:.1%}. The curves: the loss of each class by the "
        "length of the search."
    )
    if len(names) > MOST_CLASSES:
        caption += f" Of {len(names)} classes the {MOST_CLASSES} with the smallest losses are shown."
    panels = (
        _reconstructions(image[0, 0], explanation, decision, names),
        _searches(explanation, decision, names),
    )
    return Section(key, title, caption, panels)


def _shown(explanation: Explanation) -> list[int]:
    """The classes that are drawn: all, or of many those with the smallest losses."""
    losses = explanation.synthesis.losses[0]
    return sorted(losses.argsort()[:MOST_CLASSES].tolist())


def _reconstructions(image: Tensor, explanation: Explanation, decision: int, names: Sequence[str]) -> Panel:
    synthesis = explanation.synthesis
    shown = _shown(explanation)
    columns, rows = len(shown) + 1.5, 3.9
    figure, axes = image_sheet(columns, rows)
    axes.text(0.5, 0.9, "image", ha="center", va="center")
    draw_image(axes, image, 0, 1.1)
    for place, label in enumerate(shown):
        left = place + 1.5
        weight = "bold" if label == decision else "normal"
        axes.text(left + 0.5, 0.2, shorten(names[label]), ha="center", va="center", weight=weight)
        draw_image(axes, explanation.starts[label], left, 0.5)
        frame = COLOUR if label == decision else None
        draw_image(axes, synthesis.reconstructions[0, label, 0], left, 1.6, frame=frame)
        start, end = float(explanation.losses[0, label]), float(synthesis.losses[0, label])
        axes.text(left + 0.5, 2.95, f"{start:.1f}", ha="center", va="center", color=MUTED)
        axes.text(left + 0.5, 3.4, f"{end:.1f}", ha="center", va="center", weight=weight)
    axes.text(1.4, 2.95, "loss, start", ha="right", va="center", color=MUTED)
    axes.text(1.4, 3.4, "loss, end", ha="right", va="center")
    finish_sheet(axes, columns, rows)
    ends = ", ".join(f"{names[label]}: {float(synthesis.losses[0, label]):.1f}" for label in shown)
    return Panel("figure-1-classes", figure, f"Reconstructions by {len(shown)} classes; losses {ends}.")


def _searches(explanation: Explanation, decision: int, names: Sequence[str]) -> Panel:
    figure = new_figure(3.5, 2.8)
    axes = figure.subplots()
    order = explanation.losses[-1].argsort().tolist()
    for label in _shown(explanation):
        losses = explanation.losses[:, label].tolist()
        own = label == decision
        colour, width = (COLOUR, 2.0) if own else (MUTED, 0.9)
        axes.plot(explanation.lengths, losses, color=colour, linewidth=width)
        place = (explanation.lengths[-1], losses[-1])
        # losses may end close together: three columns of names keep them apart
        offset = (4 + 8 * (order.index(label) % 3), 0)
        axes.annotate(
            shorten(names[label]),
            place,
            offset,
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold" if own else "normal",
        )
    axes.set(xlabel="steps of the search", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.2, linewidth=0.5)
    return Panel(
        "figure-1-search", figure, f"The loss of each class by steps of the search; {names[decision]} wins."
    )
