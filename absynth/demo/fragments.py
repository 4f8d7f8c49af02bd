"""The parts of the demo's page, as HTML: what a model sees and says, and what is proven of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from absynth.data.domain import DIGITS, Domain
from absynth.inference.abs import Synthesis
from absynth.inference.decision import Decision
from absynth.norms import Norm
from absynth.report.sentences import (
    describe_decision,
    describe_radius,
    format_confidence,
    nothing,
    round_radius,
)
from absynth.shapes import Images

ORANGE, PURPLE = (179, 88, 6), (84, 39, 136)
"""What brightens and what darkens, as in :func:`absynth.report.drawing.draw_perturbation`."""

TITLES: dict[Norm, str] = {
    "l0": "a few pixels, any amount (L0)",
    "linf": "all pixels, a little each (Linf)",
    "l1": "all changes added up (L1)",
    "l2": "length of the change (L2)",
}
"""The norms in the order of the page."""


def notice(text: str, kind: str = "hint") -> str:
    """A line of plain text, a ``hint`` or an ``error``."""
    return f'<p class="notice {kind}" role="status">{escape(text)}</p>'


def introduction(domain: Domain) -> str:
    """What the page is about, in a heading and a few sentences."""
    what, each = ("a digit", "digit") if domain.digits else ("an image", "class")
    return (
        f"<h1>Draw {what}, and see what can be proven about it</h1><p>This reader explains an image by "
        f"drawing it anew: one small model for each {each} tries, and the best copy decides. That makes it "
        "hard to fool, and how hard is proven here for every single image, yours too.</p>"
    )


def welcome(domain: Domain, example: int | None = None) -> str:
    """What the page says before anything was asked.

    Args:
        domain: What the models are for.
        example: The number of the test image that is answered already, if one is.
    """
    shown = "" if example is None else f"An example is answered: test image {example}. "
    what = "a digit, upload a picture of one" if domain.digits else "an image, upload a picture"
    return notice(f"{shown}Draw {what}, or take a test image.")


def image_tag(pixels: Float[ndarray, "height width *channels"], description: str) -> str:
    """An image of values in [0, 1], within the page itself.

    Args:
        pixels: Grey, or red, green and blue.
        description: For those who cannot see it.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'


def colour_change(change: Float[Tensor, "height width"]) -> Float[ndarray, "height width 3"]:
    """A perturbation in colours: orange brightens, purple darkens, white is 0, scaled to its largest."""
    share = (change / change.abs().max().clamp(min=1e-12)).numpy()[..., None]
    ends = np.where(share > 0, np.array(ORANGE) / 255, np.array(PURPLE) / 255)
    colours: ndarray = 1 - np.abs(share) * (1 - ends)
    return colours


def _name(domain: Domain, label: int) -> str:
    return escape(domain.class_names[label])


def verdict(
    image: Images,
    decision: Decision,
    plain: Decision | None,
    truth: int | None = None,
    domain: Domain = DIGITS,
) -> str:
    """What ABS says about an image, and a plain CNN beside it.

    Args:
        image: Shape (1, 1, height, width).
        decision: Of ABS.
        plain: Of the CNN, if there is one.
        truth: The label, if it is known.
        domain: What the models are for.
    """
    known = "" if truth is None else f"<br>labelled {_name(domain, truth)}"
    # A digit fits into the page as large as it is; a name may not.
    style = "digit" if domain.digits else "name"
    if decision.abstained:
        answer = f'<p class="{style} none">{"Not a digit" if domain.digits else "None of the classes"}</p>'
        detail = f"no class explains it well; the nearest is {_name(domain, decision.label)}"
    else:
        answer = f'<p class="{style}">{_name(domain, decision.label)}</p>'
        detail = (
            f"<b>{format_confidence(decision.confidence)} sure</b>; next comes "
            f"{_name(domain, decision.runner_up)} with {format_confidence(decision.runner_up_confidence)}"
        )
    contrast = ""
    if plain is not None:
        contrast = (
            '<section class="cnn"><h3>Plain CNN, for contrast</h3>'
            f'<p class="{style}">{_name(domain, plain.label)}</p>'
            f"<p><b>{format_confidence(plain.confidence)} sure</b>; it has no way to say "
            f"that something is {nothing(domain)}</p></section>"
        )
    height, width = image.shape[2:]
    return (
        '<div class="verdict">'
        f"<figure>{image_tag(image[0, 0].numpy(), f'The image in {height} by {width} pixels')}"
        f"<figcaption>what the models see{known}</figcaption></figure>"
        f'<section class="abs"><h3>Analysis by synthesis</h3>{answer}<p>{detail}</p></section>'
        f"{contrast}</div>"
    )


def reconstructions(synthesis: Synthesis, decision: Decision, domain: Domain = DIGITS) -> str:
    """The best synthesis of every class with its loss; that of the decision is framed.

    Args:
        synthesis: Of one image.
        decision: What follows from it.
        domain: What the model is for.
    """
    tiles = []
    for label, loss in enumerate(synthesis.losses[0].tolist()):
        best = " best" if label == decision.label else ""
        name = domain.class_names[label]
        tag = image_tag(synthesis.reconstructions[0, label, 0].numpy(), f"The best {name} for this image")
        words = f"<b>{escape(name)}</b>: {loss:.1f}"
        tiles.append(f'<figure class="tile{best}">{tag}<figcaption>{words}</figcaption></figure>')
    models = "Ten models, one a digit" if domain.digits else f"{len(tiles)} models, one a class"
    return (
        f"<h2>The best that each class can draw</h2><p>{models}, each try to copy the image. "
        "Below a copy stands its loss: how far it is off. The smallest loss decides; where none is small, "
        f"it is {nothing(domain)}."
        f'</p><div class="tiles">{"".join(tiles)}</div>'
    )


def certificates(radii: Mapping[Norm, float], remark: str) -> str:
    """What is proven in each norm, as far as it is known already.

    Args:
        radii: Certified radius by norm; those that are missing are shown as under way.
        remark: Which decision they are about.
    """
    cards = []
    for norm, title in TITLES.items():
        if norm in radii:
            unit = " px" if norm == "l0" else ""
            figure = f"{round_radius(radii[norm], norm)}{unit}"
            text = describe_radius(radii[norm], norm)
        else:
            figure, text = "…", "being proven"
        cards.append(
            f'<section class="{norm}"><h3>{title}</h3><p class="radius">{figure}</p>'
            f"<p>{escape(text)}</p></section>"
        )
    return (
        '<h2>What is proven</h2><p>Not "we found no attack": a proof that no attack exists.</p>'
        f'<div class="proofs">{"".join(cards)}</div><p class="rule">{escape(remark)}</p>'
    )


def beside(name: str, decision: str, method: str, known: Mapping[Norm, float | str]) -> str:
    """What a user's model says, and what is proven of it in each norm or why nothing is, as far as known.

    Args:
        name: Of the model.
        decision: In words.
        method: What certifies it; empty if nothing does.
        known: By norm, the certified radius or why there is none.
    """
    cards = []
    for norm, title in TITLES.items():
        found = known.get(norm, "")
        if isinstance(found, float) and round_radius(found, norm) > 0:
            figure = f"{round_radius(found, norm)}{' px' if norm == 'l0' else ''}"
            state, text = "proven", describe_radius(found, norm)
        elif isinstance(found, float):
            figure, state, text = "0", "not proven", "The bounds are too wide for any radius here."
        elif found:
            figure, state, text = "-", "not proven", f"Not proven: {found}."
            text = text.replace("..", ".")
        else:
            figure, state, text = "…", "", "being proven"
        kind = state.replace(" ", "-")
        cards.append(
            f'<section class="{norm} {kind}"><h3>{title}</h3><p class="radius">{figure} '
            f"<small>{state}</small></p><p>{escape(text)}</p></section>"
        )
    how = f"Proofs by the method {method}." if method else "No method has proofs for it."
    return (
        f"<h2>Beside it: {escape(name)}</h2><p>It says <b>{escape(decision)}</b>. {how} "
        "What is not proven may hold all the same.</p>"
        f'<div class="proofs">{"".join(cards)}</div>'
    )


def smallest_change(sentence: str) -> str:
    """The heading above the smallest adversarial, and a sentence about it."""
    return (
        f"<h2>The smallest change that flips it</h2><p>{escape(sentence)} "
        "Move the slider to make it; orange brightens, purple darkens.</p>"
    )


def adversarial_step(
    image: Images,
    changed: Images,
    codebook: tuple[int, int],
    decision: Decision,
    plain: Decision | None,
    size: float,
    domain: Domain = DIGITS,
) -> str:
    """An image on the way to its smallest adversarial, and who sees what in it.

    Args:
        image: The original, shape (1, 1, height, width).
        changed: What is shown, of the same shape.
        codebook: The codebook's decision on the original and now.
        decision: What ABS says now.
        plain: What the CNN says now, if there is one.
        size: L2 size of the change.
        domain: What the models are for.
    """
    change = changed[0, 0] - image[0, 0]
    pictures = (
        (image_tag(image[0, 0].numpy(), "The original"), "original"),
        (
            image_tag(colour_change(change), "The change"),
            "the change, magnified",
        ),
        (image_tag(changed[0, 0].numpy(), "The changed image"), f"changed by {size:.2f} (L2)"),
    )
    figures = "".join(f"<figure>{tag}<figcaption>{text}</figcaption></figure>" for tag, text in pictures)
    flipped = codebook[0] != codebook[1]
    before, after = (_name(domain, label) for label in codebook)
    said = f"{after}, flipped from {before}" if flipped else f"{after}, as before"
    contrast = (
        "" if plain is None else f"<li>plain CNN: <b>{escape(describe_decision(plain, domain))}</b></li>"
    )
    return (
        f'<div class="step"><div class="pictures">{figures}</div><ul>'
        f'<li class="codebook{" flipped" if flipped else ""}">codebook: <b>{said}</b></li>'
        f"<li>ABS: <b>{escape(describe_decision(decision, domain))}</b></li>{contrast}</ul></div>"
    )
