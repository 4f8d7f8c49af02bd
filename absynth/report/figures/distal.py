"""Figure 4: what noise turns into when a model is made sure of it."""

from __future__ import annotations

from collections.abc import Sequence

from absynth.errors import AbsynthError
from absynth.evaluate.distal import ENOUGH, Distal
from absynth.report.drawing import Panel, Section, draw_image, finish_sheet, image_sheet
from absynth.report.results import model_order

USUAL = ("cnn", "madry", "abs")
"""The models of the paper's figure."""

GAP = 0.8
"""Between images, as the confidences are wider than an image."""


def distal_section(key: str, title: str, found: Sequence[Distal], usual: Sequence[str] = USUAL) -> Section:
    """Figure 4, one panel a model and gradient.

    Args:
        key: Anchor.
        title: Heading.
        found: What ``absynth distal`` wrote.
        usual: Models that the figure should have.

    Raises:
        AbsynthError: If that is nothing.
    """
    if not found:
        raise AbsynthError("none are recorded; run 'absynth distal'.")
    ordered = sorted(found, key=lambda entry: (model_order(entry.model), entry.gradient))
    present = {entry.model for entry in found}
    remarks = [
        f"{name} is left out: no distal adversarials of it are recorded ('absynth distal --model {name}')."
        for name in usual
        if name not in present
    ]
    seeds = ", ".join(str(seed) for seed in sorted({entry.seed for entry in found}))
    targets = ", ".join(str(target) for target in sorted({entry.target for entry in found}))
    hashes = {entry.model: entry.weights for entry in ordered}
    weights = ", ".join(f"{name} {digest[:12]}" for name, digest in hashes.items())
    caption = (
        f"Images of uniform noise (seed {seeds}), all that were drawn, changed by gradient ascent until the "
        f"named model is over {ENOUGH:.0%} confident to see class {targets}, or until the steps ran out. ABS "
        "is ascended on the loss of that class alone, as its confidence is flat where nothing explains an "
        "image. Beneath each: the steps, and the confidence that each model has in that class. An image that "
        f"shows that class to a person is no adversarial. Weights: {weights}."
    )
    panels = tuple(_panel(f"{key}-{number + 1}", entry) for number, entry in enumerate(ordered))
    return Section(key, title, caption, panels, tuple(remarks))


def _panel(name: str, entry: Distal) -> Panel:
    lines = len(entry.confidences) + 1
    columns, rows = len(entry.images) * (1 + GAP), 1.5 + 0.28 * lines
    figure, axes = image_sheet(columns, rows, width=min(7.2, 0.85 * columns))
    title = f"{entry.model}, {entry.gradient} gradient, at most {entry.limit} steps"
    axes.text(0.03, 0.1, title, va="center", weight="bold")
    words = []
    for place, image in enumerate(entry.images):
        left = place * (1 + GAP)
        draw_image(axes, image[0], left + GAP / 2, 0.3)
        asked = sorted(entry.confidences, key=model_order)
        said = [f"{model} {float(entry.confidences[model][place]):.0%}" for model in asked]
        text = [f"{int(entry.steps[place])} steps", *said]
        for line, part in enumerate(text):
            middle = left + (1 + GAP) / 2
            axes.text(middle, 1.5 + 0.28 * line, part, ha="center", va="center", fontsize=7)
        words.append(", ".join(said))
    finish_sheet(axes, columns, rows)
    return Panel(name, figure, f"Noise ascended on {title}; confidence in the class: {'; '.join(words)}.")
