"""The one training loop; losses and perturbations are functions given to it."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from absynth.adversarial import Adversary
from absynth.errors import AbsynthError
from absynth.files import write_bytes
from absynth.models.vae import VAE, elbo_losses
from absynth.progress import Progress
from absynth.shapes import Images, Labels

Targets = Shaped[Tensor, "batch"]
"""What a loss holds against each image: its class or, for a VAE, its weight."""

Loss = Callable[[nn.Module, Images, Targets, torch.Generator], Float[Tensor, ""]]
Perturbation = Callable[[Images, torch.Generator], Images]
Finished = Callable[[nn.Module, float], bool]
"""Whether a network in evaluation mode is good enough, given the share of the training done, above 0."""

Histories = list[list[float]]
"""The loss by epoch of several networks."""

BENDING = 5
"""Points a side of the grid that :func:`bend` moves."""

FEWEST_A_BATCH = 8
"""A class of fewer images has each of them several times in an epoch: batch norm needs several a batch."""

STEPS_A_CHECKPOINT = 20
"""A checkpoint takes about as long as a few steps, so that small sets do not get one every epoch."""

CHECKPOINT_ENTRIES = ("signature", "model", "optimizer", "schedule", "generator", "history")


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start; it falls to 0 along a cosine.
        seed: Of the initial weights, the order of the images and every other draw.
        emphasis: Of a VAE on what it explains badly, see :func:`variational`.
        rounds: How often the VAEs of an ABS are trained on from there with more weight on the images that
            another class explains nearly as well, see :mod:`absynth.rounds`.
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


def augment(images: Images, generator: torch.Generator) -> Images:
    """Moves each image by its own small affine map: ±5° of rotation, ±5 % of size, ±1 pixel of shift.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """

    def uniform(limit: float) -> Float[Tensor, "batch"]:
        return (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * limit

    angle, scale = uniform(math.radians(5)), 1 + uniform(0.05)
    shift_x, shift_y = uniform(2 / images.shape[-1]), uniform(2 / images.shape[-2])
    rows = [
        torch.stack([angle.cos() * scale, -angle.sin() * scale, shift_x], dim=1),
        torch.stack([angle.sin() * scale, angle.cos() * scale, shift_y], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return _resample(images, grid)


def distort(images: Images, generator: torch.Generator) -> Images:
    """Writes the first half of a batch anew as :func:`bend` does, so that the real images keep their weight.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """
    half = len(images) // 2
    return torch.cat([bend(images[:half], generator), images[half:]]) if half else images


def bend(images: Images, generator: torch.Generator) -> Images:
    """Turns, slants, scales and bends each image by its own map.

    At most 5° of rotation, 6 % of slant, 5 % of each side's length and a shift of 0.2 pixels, then random
    displacements (half a pixel of standard deviation) on a coarse grid, smoothly interpolated, as in Simard
    et al. 2003.

    Args:
        images: Shape (batch, channel, height, width).
        generator: Source of the maps.
    """

    def uniform(limit: float) -> Float[Tensor, "batch"]:
        return (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * limit

    angle, slant, width, height = (
        uniform(math.radians(5)),
        uniform(0.06),
        1 + uniform(0.05),
        1 + uniform(0.05),
    )
    shift_x, shift_y = uniform(0.4 / images.shape[-1]), uniform(0.4 / images.shape[-2])
    rows = [
        torch.stack([angle.cos() * width, slant - angle.sin(), shift_x], dim=1),
        torch.stack([angle.sin(), angle.cos() * height, shift_y], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    coarse = 0.04 * torch.randn(
        len(images), 2, BENDING, BENDING, generator=generator, device=images.device, dtype=images.dtype
    )
    size = (images.shape[-2], images.shape[-1])
    bent = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return _resample(images, grid + bent.permute(0, 2, 3, 1))


def _resample(images: Images, grid: Float[Tensor, "batch height width 2"]) -> Images:
    """The images at the points of a grid; beyond an edge, what lies at the edge, be it dark or light."""
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)


def cross_entropy(model: nn.Module, images: Images, labels: Labels, _: torch.Generator) -> Float[Tensor, ""]:
    """The mean cross-entropy of the logits."""
    return functional.cross_entropy(model(images), labels)


def variational(
    model: nn.Module,
    images: Images,
    importance: Float[Tensor, "batch"],
    generator: torch.Generator,
    *,
    emphasis: float = 0.0,
) -> Float[Tensor, ""]:
    """The loss of one class's VAE, β = 1 (:func:`absynth.models.vae.elbo_losses`).

    Args:
        model: The VAE.
        images: A batch.
        importance: Factor on the weight of each image's loss.
        generator: Source of the posterior samples.
        emphasis: Power e of the weight that an image's loss has, its own size (loss_i / mean loss)^e: 0 is
            the paper's plain mean; above it the rare styles that a class explains badly, and that are
            therefore lost to other classes, count more.
    """
    assert isinstance(model, VAE)
    losses = elbo_losses(model, images, generator=generator)
    weights = losses.detach() ** emphasis * importance
    return (weights / weights.mean() * losses).mean()


@dataclass(frozen=True)
class Run:
    """What a training needs to go on from where it was interrupted, and end with the very same weights.

    Attributes:
        checkpoint: Where it is kept.
        signature: What tells this run from others.
        model: The network as it is.
        optimizer: Of its parameters.
        schedule: Of the learning rate.
        generator: Source of every draw.
    """

    checkpoint: Path
    signature: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator

    def restore(self) -> list[float]:
        """Brings all back to how it was saved, if it was; the losses until then.

        Raises:
            AbsynthError: If the checkpoint is damaged or belongs to another run.
        """
        if not self.checkpoint.exists():
            return []
        state = _read_checkpoint(self.checkpoint, self.signature)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError:
            raise AbsynthError(
                f"The checkpoint {self.checkpoint} belongs to another network; "
                "train into another folder or delete it."
            ) from None
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if len(state["generator"]) == len(self.generator.get_state()):
                self.generator.set_state(state["generator"])
            else:  # of a GPU, and this is a CPU, or the other way round
                self.generator.manual_seed(int(fingerprint(state["generator"])[:12], 16))
            return [float(loss) for loss in state["history"]]
        except Exception:  # whatever torch may meet in states of other shapes
            raise _damaged(self.checkpoint) from None

    def save(self, history: list[float]) -> None:
        """Keeps how all is now, with the losses until now.

        Raises:
            UnwritableError: If the checkpoint cannot be written.
        """
        state = {
            "signature": self.signature,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "history": history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(self.checkpoint, content.getvalue())


def fit(
    make_model: Callable[[], nn.Module],
    images: Images,
    targets: Targets,
    loss: Loss,
    settings: TrainingSettings,
    *,
    checkpoint: Path,
    progress: Progress,
    description: str,
    perturbation: Perturbation | None = None,
    adversary: Adversary | None = None,
    finished: Finished | None = None,
    pause: Callable[[], bool] | None = None,
) -> tuple[nn.Module, list[float]]:
    """Trains a model with Adam, or goes on from where an interrupted run stopped.

    Args:
        make_model: Builds the untrained model; called with the global generator seeded, and that
            generator's state put back afterwards.
        images: All training images.
        targets: Their classes, or what else the loss takes.
        loss: What to minimise, a function of (model, images, targets, generator).
        settings: How long and how fast.
        checkpoint: Written after every epoch, or every few short ones; if it is there, training goes on from
            it and ends with the very same weights as a run that was never interrupted.
        progress: Where to show epochs and loss.
        description: What the progress display calls this.
        perturbation: Applied to every batch before the loss (augmentation).
        adversary: Turns every batch, after the perturbation, against the model as it is then.
        finished: Asked after every epoch but the last, and once when training goes on, whether to stop. Its
            answer must depend on what it is given alone, or a resumed run could stop elsewhere. The learning
            rate is that of all the epochs: one that stops early leaves out the slowest steps of the cosine.
        pause: Asked after every checkpoint whether to leave the other epochs to the next call.

    Returns:
        The trained model in evaluation mode, and the mean loss of every epoch that was run.

    Raises:
        AbsynthError: If there are no images, or the checkpoint is damaged or belongs to another run.
    """
    if len(images) == 0:
        raise AbsynthError(f"There are no training images for {description}.")
    run = prepare_run(make_model, images, targets, settings, checkpoint, perturbation, adversary)
    model, optimizer, schedule, generator = run.model, run.optimizer, run.schedule, run.generator
    epochs, steps_an_epoch = count_epochs(len(images), settings), _steps_an_epoch(len(images), settings)
    kept_every = math.ceil(STEPS_A_CHECKPOINT / steps_an_epoch) if settings.least_steps else 1
    steps = epochs * steps_an_epoch
    history = run.restore()
    task = progress.add_task(description, total=epochs, completed=len(history), note="")
    while len(history) < epochs:
        if history and finished is not None and finished(model.eval(), len(history) / epochs):
            progress.update(task, total=len(history))
            break
        model.train()
        total = 0.0
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for rows in _batches(order, settings.batch_size):
            batch = images[rows] if perturbation is None else perturbation(images[rows], generator)
            if adversary is not None:
                batch = adversary(model, batch, targets[rows], generator, schedule.last_epoch / steps)
            value = loss(model, batch, targets[rows], generator)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(rows)
        history.append(total / len(images))
        progress.update(task, advance=1, note=f"loss {history[-1]:.3f}")
        if len(history) % kept_every and len(history) < epochs:
            continue
        run.save(history)
        if pause is not None and pause():
            break
    return model.eval(), history


def prepare_run(
    make_model: Callable[[], nn.Module],
    images: Images,
    targets: Targets,
    settings: TrainingSettings,
    checkpoint: Path,
    perturbation: Perturbation | None = None,
    adversary: Adversary | None = None,
) -> Run:
    """The untrained network of :func:`fit`, which has the same arguments, and all that belongs to it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        model = make_model()
    model.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = count_epochs(len(images), settings) * _steps_an_epoch(len(images), settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    signature = {
        **vars(settings),
        "images": len(images),
        "data": fingerprint(images, targets),
        "start": fingerprint(*model.state_dict().values()),
        "perturbed": perturbation is not None,
        **({} if adversary is None else {"adversary": asdict(adversary)}),
    }
    return Run(checkpoint, signature, model, optimizer, schedule, generator)


def count_epochs(images: int, settings: TrainingSettings) -> int:
    """How many epochs :func:`fit` trains on so many images, unless it stops early."""
    return max(settings.epochs, math.ceil(settings.least_steps / _steps_an_epoch(images, settings)))


def _steps_an_epoch(images: int, settings: TrainingSettings) -> int:
    return len(_batches(torch.arange(images), settings.batch_size))


def _batches(order: Int64[Tensor, "images"], size: int) -> list[Int64[Tensor, "batch"]]:
    """The images of an epoch in batches; one left over, too few for batch norm, joins the last batch."""
    batches = list(order.split(size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def fingerprint(*tensors: Tensor) -> str:
    """A digest of the values, to tell one run's data and weights from another's."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read_checkpoint(path: Path, signature: dict[str, Any]) -> dict[str, Any]:
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as archive:  # whose checksums torch does not look at
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        content.seek(0)
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        stored = {name: state[name] for name in CHECKPOINT_ENTRIES}["signature"]
        # Only a run with an adversary stores one; other entries that an older run did not know are not asked.
        changed = sorted(name for name in {*stored, "adversary"} if signature.get(name) != stored.get(name))
    except Exception:  # whatever zipfile and torch may meet in a damaged file
        raise _damaged(path) from None
    if changed:
        raise AbsynthError(
            f"The checkpoint {path} belongs to a run with other {', '.join(changed)}; "
            "train into another folder or delete it."
        )
    return state


def _damaged(path: Path) -> AbsynthError:
    return AbsynthError(f"The checkpoint {path} is damaged; delete it to start again.")


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
        """Trains, as :func:`absynth.training.fit` does, with the checkpoint in a folder."""
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
        AbsynthError: As for :func:`fit`, or if the images have another size than the VAEs to go on from.
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
