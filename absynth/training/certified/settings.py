"""How to train for certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from absynth.errors import AbsynthError
from absynth.models.cnn import Binarized, binarize
from absynth.models.front import Clamped, clamp
from absynth.models.pretrained import PretrainedModel
from absynth.training.certified.distances import Distance, box_distance, clamped_distance


@dataclass(frozen=True)
class CertifiedSettings:
    """How to train for certificates.

    Attributes:
        rounds: How often pairs are mined and learned from.
        images: Training images that are looked at in a round.
        compared: Prototypes a class in a round; where they are sparse, it is learned to make up for that.
        rivals: Pairs an image.
        own: Nearest own prototypes that the one against a rival is chosen from.
        batch_size: Images a step.
        learning_rate: Of Adam; without averaging it falls to 0 along a cosine.
        averaged: Share of the rounds, the last ones, over which the weights are averaged.
        target: t, the distance in L2 beyond which a pair no longer matters.
        sharpness: β, how suddenly it stops mattering.
        target_weight: Of what is short of this target, beside the 1 of what is short of the next.
        safety: The target for the decision: an image this close to another class counts as nearly lost.
        safety_sharpness: Its β.
        safety_weight: Of what is short of it.
        pixels: The target for the distance in L0.
        pixels_sharpness: Its β.
        pixels_weight: Of what is short of it; by default 0, and L0 is not asked for.
        pixels_hopeless: A distance in L0 below which it hardly matters how much is missing, so that pairs
            that will not come near the target leave the weights to those that may; 0 for none.
        binary: Whether for binary input: distances are then those of images of 0 and 1.
        reach: For binary input, an Linf size that the decision is to stand with ``SPARED`` pixels to spare.
        reach_weight: Of what is short of that.
        closeness: Weight of the own prototypes' scores.
        tail: Of the clamp in front; 0 for none. The recipe puts it in front of what it has trained without:
            decoders trained behind a clamp gain radius, but lose decisions.
        prior_weight: Of ½‖z‖² in the finished model's scores. The rounds have 1: a smaller one afterwards
            decides better, at the cost of a little radius.
        copies: Bent copies of the training images that the codebook's latents are found in too.
        seed: Of every draw.
    """

    rounds: int = 120
    images: int = 6000
    compared: int = 16000
    rivals: int = 4
    own: int = 4
    batch_size: int = 100
    learning_rate: float = 6e-4
    averaged: float = 0.0
    target: float = 2.0
    sharpness: float = 4.0
    target_weight: float = 0.6
    safety: float = 0.4
    safety_sharpness: float = 8.0
    safety_weight: float = 1.0
    pixels: float = 16.0
    pixels_sharpness: float = 0.5
    pixels_weight: float = 0.0
    pixels_hopeless: float = 0.0
    binary: bool = False
    reach: float = 0.0
    reach_weight: float = 0.0
    closeness: float = 0.006
    tail: float = 0.0
    prior_weight: float = 1.0
    copies: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        counts = (self.images, self.compared, self.rivals, self.own, self.batch_size)
        targets = (self.target, self.safety, self.pixels)
        sharpness = (self.sharpness, self.safety_sharpness, self.pixels_sharpness)
        weights = (self.target_weight, self.safety_weight, self.pixels_weight, self.reach_weight)
        if (
            min(self.rounds, self.copies) < 0
            or min(counts) < 1
            or not min(self.learning_rate, *targets, *sharpness) > 0
            or not min(*weights, self.prior_weight) >= 0
        ):
            raise AbsynthError(
                "Training a codebook needs at least 1 of everything that is counted but rounds and copies, "
                "a learning rate, targets and sharpness above 0, and weights of at least 0."
            )
        if not 0 <= self.pixels_hopeless < self.pixels:
            raise AbsynthError(
                f"Distances in L0 below {self.pixels_hopeless:g} are to be hopeless; that must be at least 0 "
                f"and less than the target, {self.pixels:g}."
            )
        if not 0 <= self.averaged <= 1:
            raise AbsynthError(f"The share of averaged rounds is {self.averaged}; it must be from 0 to 1.")
        if not 0 <= self.tail < 0.5 or (self.tail and self.binary):
            raise AbsynthError("A tail is at least 0 and less than 0.5, and 0 for binary input.")

    def see(self, images: Tensor) -> Tensor:
        """What the prototypes see of images: those behind the threshold, behind the clamp, or themselves."""
        if self.binary:
            return binarize(images)
        return clamp(images, self.tail) if self.tail else images

    def behind(self, model: PretrainedModel) -> PretrainedModel:
        """The model behind the threshold, behind the clamp, or by itself."""
        if self.binary:
            return Binarized(model)
        return Clamped(model, self.tail) if self.tail else model

    def averages(self, done: int) -> bool:
        """Whether the weights after so many rounds are among those averaged."""
        return done > self.rounds * (1 - self.averaged)

    @property
    def distance(self) -> Distance:
        """How far images are from where rivals win, in L2."""
        return partial(clamped_distance, tail=self.tail) if self.tail else box_distance


def choose_settings(usual: CertifiedSettings, **changes: float | None) -> CertifiedSettings:
    """Settings with those replaced that are not None.

    Raises:
        AbsynthError: If a setting makes no sense.
    """
    return replace(usual, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def choose_stages(
    usual: Sequence[CertifiedSettings], rounds: int | None, **changes: float | None
) -> tuple[CertifiedSettings, ...]:
    """The settings of one training after the other, with those replaced that are not None.

    Args:
        usual: What they are otherwise.
        rounds: Of all together, shared out as they usually are.
        changes: To every one of them.

    Raises:
        AbsynthError: If a setting makes no sense.

    >>> usual = CertifiedSettings(rounds=120), CertifiedSettings(rounds=60)
    >>> [stage.rounds for stage in choose_stages(usual, 6)]
    [4, 2]
    """
    counts = [stage.rounds for stage in usual]
    if rounds is not None:
        ends = [round(rounds * sum(counts[: place + 1]) / sum(counts)) for place in range(len(counts))]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return tuple(
        choose_settings(stage, rounds=count, **changes) for stage, count in zip(usual, counts, strict=True)
    )
