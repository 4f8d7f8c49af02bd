"""What follows for the images as they were given, where the model sees them rounded."""

from __future__ import annotations

from dataclasses import replace

from absynth.certify.certificate import Certificate, is_closed
from absynth.inputs import Given
from absynth.norms import distance

ROUNDED = 2.0**-25
"""The most that a number of [0, 1] changes when it is rounded to float32: half of the spacing below 1."""

UPWARDS = 1 + 2.0**-30
"""Makes up for the rounding of a distance in float64."""

STRICTLY = 1 - 2.0**-40
"""Makes up for the rounding of a difference in float64."""


def for_given(certificate: Certificate, given: Given) -> Certificate:
    """The certificate of images as they were given, from that of what the model sees of them.

    Let x be an image as it was given, x' any other, and f(x), f(x') what the model sees, rounded to float32
    and clipped. Then ‖f(x') − f(x)‖ ≤ ‖f(x') − x'‖ + ‖x' − x‖ + ‖x − f(x)‖. The last is measured, and the
    first is at most 2⁻²⁵ a value, so that a radius that is smaller by both holds around x. In L0 it stays as
    it is: f treats every pixel by itself, and changes no more of them than x' does.

    Args:
        certificate: Of ``given.seen``.
        given: The images.
    """
    if certificate.norm == "l0":
        return certificate
    values = given.seen[0].numel()
    most = {"l2": values**0.5, "l1": float(values), "linf": 1.0}[certificate.norm] * ROUNDED
    moved = (distance(given.seen, given.values, certificate.norm) + most) * UPWARDS
    moved = moved.masked_fill(distance(given.seen, given.values, "linf") == 0, 0).to(certificate.radius)
    radius = (certificate.radius.double() - moved).clamp(min=0) * STRICTLY
    radius = radius.where(moved > 0, certificate.radius.double())
    if certificate.gap is None:
        return replace(certificate, radius=radius)
    # an adversarial may be further from the image as it was given, too; where there is none, none appears
    gap = (certificate.gap + 2 * moved).where(certificate.gap > 0, certificate.gap)
    return replace(certificate, radius=radius, gap=gap, closed=is_closed(gap, radius, certificate.norm))
