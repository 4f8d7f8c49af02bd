"""How long and how fast to train."""

from __future__ import annotations

from dataclasses import dataclass

from absynth.errors import AbsynthError


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start; it falls to 0 along a cosine.
        seed: Of the initial weights, the order of the images and every other draw.
        emphasis: Of a VAE on what it explains badly, see
            :func:`~absynth.training.losses.variational`.
        rounds: How often the VAEs of an ABS are trained on from there with more weight on the images that
            another class explains nearly as well, see :mod:`absynth.training.rounds`.
        least_steps: Steps that every network gets at least, in as many more epochs as that takes: what makes
            the same settings do for few images.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    emphasis: float = 0.0
    rounds: int = 0
    least_steps: int = 0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0 or not self.emphasis >= 0:
            raise AbsynthError(
                "Training needs at least 1 epoch, 1 image a batch, a learning rate above 0 "
                "and an emphasis of at least 0."
            )
