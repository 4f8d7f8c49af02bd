"""What an attack asks of a model, looked at once before it begins, and once more when it is over.

A model that answers at random or by the rest of the batch has no adversarials that could be kept, and one
whose gradients are none looks more robust than it is. The checks follow those of AutoAttack (Croce & Hein
2020, arXiv 2003.01690), with others that users' models turned out to need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.attacks.averaged import DRAWS, Averaged
from absynth.attacks.probabilities import with_logarithms
from absynth.attacks.target import private_randomness
from absynth.errors import AbsynthError, first_line
from absynth.inputs import whole_number
from absynth.models.asked import Asked, find_asked, unsure_of_mode
from absynth.models.confidence import ROUNDED_SUM, are_probabilities
from absynth.models.frozen import frozen
from absynth.norms import Norm
from absynth.shapes import Images, Logits

LOOKED_AT = 8
"""Images that a model is tried on."""

REPETITIONS = 3
"""How often it is asked the same again."""

ALONE = 3
"""How many of the images it is asked about alone."""

TOLERANCE = 1e-3
"""How far two answers may differ by rounding, as a share of the largest logit."""

SATURATED = 1e-6
"""A largest probability that is nearer to 1 than this is saturated."""

SQUASHED = 0.95
"""Answers within [-1, 1] that go beyond this look like those of tanh, and not like small logits."""

NOTABLE = 0.25
"""The share of images on which an attack without gradients has to be ahead before that is remarked on."""

FEWEST = 4
"""Images that such a share is taken of."""

AHEAD = 0.9
"""It is ahead where its distance is less than this share of the smallest by gradients."""

GRADIENTS = frozenset(
    ("fgm", "fgsm", "bim", "pgd", "mim", "deepfool", "ddn", "fmn", "carlini-wagner", "auto-attack")
)
"""Attacks that go by the model's gradients."""

DECISIONS = frozenset(
    ("boundary", "pointwise", "hop-skip-jump", "gaussian-noise", "uniform-noise", "sparse-search")
)
"""Attacks that go by decisions or scores."""


@dataclass(frozen=True)
class Checked:
    """A model that may be attacked.

    Attributes:
        model: The model, or the form of it that shows its robustness best.
        random: Whether it answers at random.
        remarks: What is to be known of the figures, a sentence each.
    """

    model: nn.Module
    random: bool
    remarks: tuple[str, ...]


def check_model(
    model: nn.Module,
    images: Images,
    *,
    name: str = "The model",
    allow_random: bool = False,
    draws: Any = DRAWS,
    seed: Any = 0,
) -> Checked:
    """Sees whether a model can be attacked, and how its figures are to be read.

    Args:
        model: From images to logits.
        images: Some of those that will be attacked, on the device of the model; the first few are looked at.
        name: What sentences call it.
        allow_random: Whether it may answer at random; the mean over draws is then attacked in its place.
        draws: How many.
        seed: Of what it draws meanwhile.

    Raises:
        AbsynthError: If an attack's figures would be wrong: for an answer that is not a row of at least two
            finite logits an image, that depends on the batch, or that is random without leave.
    """
    draws = whole_number(draws, "number of draws")
    images, asked = images[:LOOKED_AT].detach(), find_asked(model)
    remarks = [] if asked is None else [remark.replace("The model", name, 1) for remark in asked.remarks]
    with frozen(model), private_randomness(seed, images.device):
        with torch.no_grad():
            given = images.clone()
            logits = _checked_logits(_ask(model, given, name), images, name)
            if not torch.equal(given, images):
                remarks.append(f"{name} changes its images in place; it was given copies.")
                model = Asked(model, images.dtype if asked is None else asked.own, copies=True).eval()
            scale = _scale(logits)
            classes = logits.shape[1]
            again = [_ask_like(classes, model, images, name) for _ in range(REPETITIONS)]
            random = any(_differ(logits, other, scale) for other in again)
            if random and not allow_random:
                mode = "put its networks into evaluation mode by .eval(), " if unsure_of_mode(model) else ""
                raise AbsynthError(
                    f"{name} answers at random: the same image gets another answer the next time, so what an "
                    f"attack finds may be luck; {mode}take the randomness out, or allow it (--allow-random, "
                    "allow_random=True), which attacks the mean of its answers."
                )
            if not random:
                _check_batches(model, images, logits, scale, name)
        if random:
            model = Averaged(model, draws)
            remarks.append(
                f"{name} answers at random; attacked was the mean of its logits over {draws} draws, and an "
                "adversarial counts if it holds for the mean over fresh ones."
            )
        elif are_probabilities(shares := _as_shares(logits)):
            remarks.append(_remark_on_probabilities(shares, name))
            model = with_logarithms(model, images)
        elif (squashed := _remark_on_squashing(logits, name)) is not None:
            remarks.append(squashed)
        remarks += _look_at_gradients(model, images, name)
    return Checked(model, random, tuple(remarks))


def _ask(model: Callable[[Tensor], object], images: Images, name: str) -> object:
    """What a model answers; it may change the images.

    Raises:
        AbsynthError: If it raises anything, or ends the program.
    """
    try:
        return model(images)
    except AbsynthError as error:
        raise AbsynthError(str(error).replace("The model", name, 1)) from None
    except (Exception, SystemExit) as error:  # whatever a user's code may raise
        raise AbsynthError(
            f"{name} raises {type(error).__name__} for images of shape {tuple(images.shape)}: "
            f"{first_line(error)}; mend it so that it answers any images in [0, 1]."
        ) from error


def _ask_like(classes: int, model: nn.Module, images: Images, name: str) -> Logits:
    """The logits for a copy of the images, of as many classes as the first ones."""
    return _like(classes, _ask(model, images.clone(), name), images, name)


def _like(classes: int, given: object, images: Images, name: str) -> Logits:
    """An answer, if it is logits of as many classes as the first ones.

    Raises:
        AbsynthError: If it is not.
    """
    answer = _checked_logits(given, images, name)
    if answer.shape[1] != classes:
        raise AbsynthError(
            f"{name} answers with {classes} classes and then with {answer.shape[1]}; it must answer "
            "all images with the same classes."
        )
    return answer


def _checked_logits(answer: object, images: Images, name: str) -> Logits:
    """The answer, if it is logits.

    Raises:
        AbsynthError: If it is not.
    """
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(images):
        given = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise AbsynthError(
            f"{name} answers {_count(images)} with {given}; it must answer with logits of shape "
            f"({len(images)}, classes), at least two classes."
        )
    if answer.shape[1] < 2:
        raise AbsynthError(
            f"{name} answers with a single logit; it must answer with one for each of at least two classes: "
            "give a logit t as the two logits 0 and t."
        )
    if not answer.is_floating_point():
        raise AbsynthError(f"{name} answers with {answer.dtype} values; logits are real numbers.")
    if answer.isnan().any():
        rows = int(answer.isnan().any(dim=1).sum())
        raise AbsynthError(
            f"{name} answers NaN for {rows} of {len(images)} unchanged images; an attack takes numbers."
        )
    rows = int(answer.amax(dim=1).isinf().sum())
    if rows:
        raise AbsynthError(
            f"{name} answers with infinite logits for {rows} of {len(images)} unchanged images; an attack "
            "takes numbers, of which those of wrong classes alone may be -inf."
        )
    return answer


def _count(images: Images) -> str:
    return "1 image" if len(images) == 1 else f"{len(images)} images"


def _scale(logits: Logits) -> float:
    finite = logits[logits.isfinite()]
    return float(finite.abs().amax()) if len(finite) else 1.0


def _differ(first: Logits, second: Logits, scale: float) -> bool:
    """Whether two answers to the same images are further apart than rounding brings them."""
    slack = max(TOLERANCE, 4 * torch.finfo(first.dtype).eps) * scale
    same = first == second  # infinite ones have no difference
    return bool((~same & ~((first - second).abs() <= slack)).any())


def _check_batches(model: nn.Module, images: Images, logits: Logits, scale: float, name: str) -> None:
    """Sees that an image gets the same answer in any company.

    Raises:
        AbsynthError: If it does not.
    """
    advice = (
        "an image must get the same answer alone as in a batch: normalise by statistics of the training "
        "images, not of the batch."
    )
    try:
        answers = [model(images[row : row + 1].clone()) for row in range(min(ALONE, len(images)))]
    except (Exception, SystemExit) as error:  # whatever a user's code may raise
        raise AbsynthError(f"{name} fails for an image alone ({first_line(error)}); {advice}") from None
    classes = logits.shape[1]
    alone = torch.cat([_like(classes, one, images[:1], name) for one in answers])
    turned = _ask_like(classes, model, images.flip(0), name).flip(0)
    among_others = _ask_like(classes, model, torch.cat([images, 1 - images]), name)[: len(images)]
    company = (_differ(logits, other, scale) for other in (turned, among_others))
    if _differ(logits[: len(alone)], alone, scale) or any(company):
        raise AbsynthError(f"The answer of {_in_a_sentence(name)} to an image depends on its batch; {advice}")


def _in_a_sentence(name: str) -> str:
    return "the model" if name == "The model" else name


def _as_shares(logits: Logits) -> Logits:
    """The answers over their sum where every row has the same one, as probabilities in percent have."""
    sums = logits.double().sum(dim=1)
    same = len(sums) > 1 and bool(sums[0] > 0) and bool(((sums / sums[0] - 1).abs() < ROUNDED_SUM).all())
    return logits / sums[0].to(logits.dtype) if same else logits


def _remark_on_squashing(logits: Logits, name: str) -> str | None:
    """What to say of answers that a sigmoid or tanh seems to have made, which flattens gradients."""
    if bool((logits >= 0).all()) and bool((logits <= 1).all()):
        seems = "between 0 and 1, as a sigmoid gives"
    elif bool((logits.abs() <= 1).all()) and bool((logits.abs() > SQUASHED).any()):
        seems = "between -1 and 1, as tanh gives"
    else:
        return None
    return (
        f"{name} answers with numbers {seems}: where they are near their limits attacks see no way, and "
        "the distances may be too large; give what goes into it."
    )


def _remark_on_probabilities(logits: Logits, name: str) -> str:
    saturated = int((logits.amax(dim=1) >= 1 - SATURATED).sum())
    how = f", saturated at 1 for {saturated} of {len(logits)} images," if saturated else ""
    return f"{name} answers with probabilities{how} in place of logits; attacked were their logarithms."


def _look_at_gradients(model: nn.Module, images: Images, name: str) -> list[str]:
    """What is to be said of the gradients of the gap between the two largest logits."""
    weak = "attacks by gradients say little about it, so trust those by decisions, such as pointwise"
    try:
        with torch.enable_grad():
            inputs = images.clone().requires_grad_()
            logits = model(inputs)
            if not logits.requires_grad:
                return [f"{name} gives no gradients; {weak}."]
            best = logits.topk(2, dim=1).values
            gap = (best[:, 0] - best[:, 1]).sum()
            slopes = torch.autograd.grad(gap, inputs, materialize_grads=True)[0]
    except (Exception, SystemExit) as error:  # whatever a user's code may raise
        return [f"{name} fails when asked for gradients ({first_line(error)}); {weak}."]
    flat, remarks = slopes.flatten(1), list[str]()
    broken = int((~flat.isfinite()).any(dim=1).sum())
    if broken:
        remarks.append(f"{name} has gradients of NaN or infinity at {broken} of {len(flat)} images; {weak}.")
    zero = int((flat == 0).all(dim=1).sum())
    if zero:
        remarks.append(f"{name} has a gradient of exactly 0 at {zero} of {len(flat)} images; {weak}.")
    return remarks


def remark_on_masking(
    distances: Mapping[str, Float[Tensor, "images"]], norm: Norm, name: str = "The model"
) -> str | None:
    """A remark where attacks without gradients come closer than those with gradients; None where they do not.

    In L0 they do by nature, as few pixels are no matter of gradients.

    Args:
        distances: What each attack found of the same images, by its name.
        norm: Of the distances.
        name: What the remark calls the model.
    """
    with_them = [found for attack, found in distances.items() if attack in GRADIENTS]
    without = {attack: found for attack, found in distances.items() if attack in DECISIONS}
    if norm == "l0" or not with_them or not without or len(with_them[0]) < FEWEST:
        return None
    smallest = torch.stack(with_them).amin(dim=0)
    ahead = {attack: float((found < AHEAD * smallest).double().mean()) for attack, found in without.items()}
    best = max(ahead, key=lambda attack: ahead[attack])
    if ahead[best] < NOTABLE:
        return None
    return (
        f"The gradients of {_in_a_sentence(name)} may be masked: in {norm}, {best} comes closer than every "
        f"attack by gradients on {ahead[best]:.0%} of the images; trust the attacks without gradients."
    )
