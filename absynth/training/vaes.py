"""The VAEs of an ABS: one a class, each trained on its own class alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from absynth.models.vae import VAE
from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.augmentation import Perturbation
from absynth.training.checkpoints import Run
from absynth.training.loop import count_epochs, fit, prepare_run
from absynth.training.losses import variational
from absynth.training.settings import TrainingSettings

Histories = list[list[float]]
"""The loss by epoch of several networks."""

FEWEST_A_BATCH = 8
"""A class of fewer images has each of them several times in an epoch: batch norm needs several a batch."""


class ClassTraining(nn.Module):
    """What it takes to train the VAE of one class, and can be sent to another process.

    Args:
        label: The class.
        images: Training images of this class alone.
        importance: Weight of each image.
        settings: Of this VAE.
        start: A trained VAE to go on from; by default a new one with 8 latents.
        perturbation: Applied to every batch (augmentation).
        hidden: Widths of the fully connected layers of a new one; without any it has convolutions.
    """

    images: Tensor
    importance: Tensor

    def __init__(
        self,
        label: int,
        images: Images,
        importance: Float[Tensor, "batch"],
        settings: TrainingSettings,
        start: VAE | None = None,
        perturbation: Perturbation | None = None,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.label, self.settings, self.perturbation, self.hidden = label, settings, perturbation, hidden
        self.start = start
        self.register_buffer("images", images)
        self.register_buffer("importance", importance)

    @property
    def description(self) -> str:
        """What the progress display calls this."""
        return f"VAE of class {self.label}"

    @property
    def epochs(self) -> int:
        """How many it takes."""
        return count_epochs(len(self.images), self.settings)

    def make_vae(self) -> VAE:
        """The VAE before the training."""
        if self.start is not None:
            return deepcopy(self.start)
        height, width = self.images.shape[2:]
        return VAE(image_size=(height, width), hidden=self.hidden)

    def prepare(self, folder: Path) -> Run:
        """The training with its checkpoint in a folder, to ask how far it is and to take the VAE from it."""
        return prepare_run(
            self.make_vae,
            self.images,
            self.importance,
            self.settings,
            self._checkpoint(folder),
            self.perturbation,
        )

    def fit(
        self, folder: Path, progress: Progress, pause: Callable[[], bool] | None = None
    ) -> tuple[VAE, list[float]]:
        """Trains, as :func:`absynth.training.loop.fit` does, with the checkpoint in a folder."""
        vae, history = fit(
            self.make_vae,
            self.images,
            self.importance,
            partial(variational, emphasis=self.settings.emphasis),
            self.settings,
            checkpoint=self._checkpoint(folder),
            progress=progress,
            description=self.description,
            perturbation=self.perturbation,
            pause=pause,
        )
        assert isinstance(vae, VAE)
        return vae, history

    def _checkpoint(self, folder: Path) -> Path:
        return folder / f"vae-{self.label}.pt"


FitVAEs = Callable[[Iterable[ClassTraining], Path, Progress], tuple[list[VAE], Histories]]


def fit_in_turn(
    trainings: Iterable[ClassTraining], folder: Path, progress: Progress
) -> tuple[list[VAE], Histories]:
    """Trains one VAE after the other in this process.

    Args:
        trainings: Asked for one by one.
        folder: For the checkpoints.
        progress: Where to show each class's epochs and loss.
    """
    vaes, histories = zip(*[training.fit(folder, progress) for training in trainings], strict=True)
    return list(vaes), list(histories)


def train_vaes(
    images: Images,
    labels: Labels,
    settings: TrainingSettings,
    *,
    classes: int,
    folder: Path,
    progress: Progress,
    start: Sequence[VAE] | None = None,
    importance: Float[Tensor, "batch"] | None = None,
    perturbation: Perturbation | None = None,
    hidden: Sequence[int] = (),
    fit_vaes: FitVAEs = fit_in_turn,
) -> tuple[list[VAE], Histories]:
    """One VAE a class, each trained on its own class alone (Schott et al. 2019, section 4).

    Args:
        images: Training images of all classes.
        labels: Their classes.
        settings: For each VAE; the seed is shifted by the class.
        classes: Number of classes.
        folder: For the checkpoints, ``vae-<class>.pt``.
        progress: Where to show each class's epochs and loss.
        start: Trained VAEs to go on from; by default new ones with 8 latents.
        importance: Weight of each image; by default 1.
        perturbation: Applied to every batch (augmentation).
        hidden: Widths of the fully connected layers of new VAEs; without any they have convolutions.
        fit_vaes: Where they are trained; by default in this process, one after the other.

    Returns:
        The VAEs, and each one's loss by epoch.

    Raises:
        AbsynthError: As for :func:`~absynth.training.loop.fit`, or if the images have another size than the
            VAEs to go on from.
    """
    weights = images.new_ones(len(images)) if importance is None else importance

    def trainings() -> Iterator[ClassTraining]:
        for label in range(classes):
            members = (labels == label).nonzero()[:, 0]
            if 0 < len(members) < FEWEST_A_BATCH:
                members = members.repeat(math.ceil(FEWEST_A_BATCH / len(members)))
            yield ClassTraining(
                label,
                images[members],
                weights[members],
                replace(settings, seed=settings.seed + label),
                None if start is None else start[label],
                perturbation,
                hidden,
            )

    return fit_vaes(trainings(), folder, progress)
