"""Decisions and certificates in words, for people who know no norms."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from absynth.data.domain import DIGITS, Domain
from absynth.inference.decision import Decision
from absynth.norms import Norm

STEPS: dict[Norm, str] = {"l2": "0.01", "l1": "0.01", "linf": "0.001", "l0": "1"}
"""What a radius is rounded to in words."""


def round_radius(radius: float, norm: Norm) -> Decimal:
    """A radius as it is written: rounded down, as no more than it is proven.

    >>> round_radius(2.5376, "l2")
    Decimal('2.53')
    """
    return Decimal(radius).quantize(Decimal(STEPS[norm]), ROUND_FLOOR)


def format_confidence(confidence: float) -> str:
    """A confidence in percent, never rounded up to certainty.

    >>> format_confidence(0.9827), format_confidence(0.99999)
    ('98%', 'over 99.9%')
    """
    if confidence > 0.999:
        return "over 99.9%"
    return f"{confidence:.1%}" if confidence > 0.99 else f"{confidence:.0%}"


def describe_radius(radius: float, norm: Norm) -> str:
    """What a certified radius means, in one sentence.

    Args:
        radius: Proven, of one image.
        norm: What it is measured in.

    >>> describe_radius(13.0, "l0")
    'No change to 13 pixels, whichever, can flip this.'
    """
    size = round_radius(radius, norm)
    if size == 0:
        if norm == "l0":
            return "Nothing is proven: changing a single pixel might flip this."
        return "Next to nothing is proven: the image lies on the border between two classes."
    if norm == "l0":
        return f"No change to {size} pixel{'' if size == 1 else 's'}, whichever, can flip this."
    if norm == "linf":
        return (
            f"Every pixel may change at once by up to {100 * size:.1f}% of full brightness: "
            "that cannot flip this."
        )
    if norm == "l1":
        return (
            f"No changes that add up to {size} or less can flip this; black to white in one pixel counts 1."
        )
    return f"No change of length {size} or less can flip this: the root of the sum of all squared changes."


def describe_rule(codebook_label: int, decision: Decision, domain: Domain = DIGITS) -> str:
    """Which decision a certificate is about, and whether it agrees with that of ABS.

    Args:
        codebook_label: What the certified codebook says.
        decision: What ABS says.
        domain: Of both.
    """
    kind, kinds = ("digit", "digits") if domain.digits else ("class", "images")
    rule = f"The proofs hold for the codebook decision: the nearest of a fixed table of synthesised {kinds}."
    name = domain.class_names[codebook_label]
    if decision.abstained:
        return (
            f"{rule} It always names a {kind}, here {name}, "
            "while ABS sees none: what is proven is about the codebook alone."
        )
    if decision.label != codebook_label:
        return (
            f"{rule} Mind: it says {name} where ABS says {domain.class_names[decision.label]}. "
            f"What is proven is that the codebook keeps to its {name}."
        )
    return f"{rule} It says {name}, like ABS, which searches on and for which nothing is proven."


def describe_adversarial(distance: float, radius: float, before: str, after: str) -> str:
    """How near the smallest adversarial is, beside what is proven.

    Args:
        distance: L2 distance of the adversarial found.
        radius: Proven L2 radius.
        before: The codebook's decision on the image.
        after: Its decision on the adversarial.
    """
    return (
        f"The smallest change found that flips the codebook from {before} to {after} has length "
        f"{Decimal(distance).quantize(Decimal('0.001'), ROUND_CEILING)}; "
        f"up to {Decimal(radius).quantize(Decimal('0.001'), ROUND_FLOOR)} it is proven that there is none."
    )


def nothing(domain: Domain) -> str:
    """What an image is that no class explains.

    >>> nothing(DIGITS)
    'no digit'
    """
    return "no digit" if domain.digits else "none of the classes"


def describe_decision(decision: Decision, domain: Domain = DIGITS) -> str:
    """A decision in a few words, as of one who may abstain."""
    name = domain.class_names[decision.label]
    if decision.abstained:
        kind = "not a digit" if domain.digits else nothing(domain)
        return f"{kind} (if it must be one: {name})"
    return f"{name}, {format_confidence(decision.confidence)} sure"


def describe_classification(decision: Decision, domain: Domain) -> str:
    """A decision with its confidence and the runner-up, as ``absynth classify`` prints it.

    >>> describe_classification(Decision(7, 0.98, 9, 0.011, abstained=False), DIGITS)
    '7, confidence 98% (runner-up 9, 1%)'
    """
    name, other = domain.class_names[decision.label], domain.class_names[decision.runner_up]
    if decision.abstained:
        return f"{nothing(domain)} (best guess {name}, confidence {decision.confidence:.0%})"
    return (
        f"{name}, confidence {decision.confidence:.0%} "
        f"(runner-up {other}, {decision.runner_up_confidence:.0%})"
    )


def describe_several(count: int) -> str:
    """What is said of a picture of several digits where one was asked for."""
    return f"{count} digits, where one is read; add --number to read them from left to right"


def describe_number(decisions: Sequence[Decision], radii: Sequence[float] | None, domain: Domain) -> str:
    """A number digit by digit, with a question mark for each digit that the model abstains from.

    Args:
        decisions: On each digit from left to right.
        radii: Certified L2 radius of each, if the model has certificates.
        domain: Of the model.

    >>> describe_number([Decision(4, 0.98, 9, 0.01, abstained=False)] * 2, [1.237, 0.5], DIGITS)
    '44 (4, confidence 98%, L2 radius 1.23; 4, confidence 98%, L2 radius 0.50)'
    """
    whole = "".join("?" if one.abstained else domain.class_names[one.label] for one in decisions)
    parts = []
    for place, one in enumerate(decisions):
        guess = f"{nothing(domain)}, best guess " if one.abstained else ""
        part = f"{guess}{domain.class_names[one.label]}, confidence {one.confidence:.0%}"
        parts.append(part if radii is None else f"{part}, L2 radius {round_radius(radii[place], 'l2')}")
    return f"{whole} ({'; '.join(parts)})"
