"""Training the decoders of a codebook for its decisions and its certificates.

The certified radius of an image is the least distance h(q, p) to a half-space in which a rival prototype q
beats an own one p, where p may be chosen for each q (:mod:`absynth.certify.halfspace`). So in every round

1. some training images are changed a little, each in its own way, and prototypes are decoded from the
   posteriors of others: an image that had its own latent in the codebook would be too easy;
2. for each image the rivals with the smallest distance are mined, and the best own prototype against each
   (where L0 is asked for, more of them, of which those stay that are nearest in L0);
3. Adam lowers the mean over these pairs of softplus(β (t − h)) / β, once with a target t for the certificates
   and once with a small and sharp one for the decision itself, perhaps once more with h in pixels, plus a
   little of the own prototype's score, through the decoders. Images that are beyond the targets already are
   left out.

What is mined goes stale as the decoders move, so that a round takes few and small steps. Every round asks for
something a little different: either the learning rate falls until that no longer shows, or it stays and the
weights are averaged over many rounds. The prototypes stay what decoders make of latents: moved freely, they
fit the training images and gain nothing on others.

A codebook ABS starts from the decoders of a trained ABS. The certified models start from VAEs of their own,
of fully connected layers, and their latents come from bent copies of the training images too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from absynth.certify import Certificate, certify
from absynth.data.domain import Domain
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.models.cnn import Binarized, binarize
from absynth.models.confidence import ALPHA
from absynth.models.front import TAIL, Clamped, clamp
from absynth.models.pretrained import PretrainedModel, read_config, read_domain, round_to_half
from absynth.models.projection import principal_axes
from absynth.models.vae import VAE, Decoder, Posterior
from absynth.norms import Norm
from absynth.pairs import (
    Distance,
    Pairs,
    box_distance,
    clamped_distance,
    mine,
    nearest_in_pixels,
    pixel_distance,
)
from absynth.progress import Progress
from absynth.recipes import (
    check_classes,
    codebook_latents,
    codebook_size,
    fit_sharpness,
    posteriors,
    read_vaes,
    validate,
)
from absynth.shapes import Images, Labels
from absynth.training import (
    FitVAEs,
    Perturbation,
    Run,
    TrainingSettings,
    bend,
    distort,
    fingerprint,
    fit_in_turn,
    train_vaes,
)

DECODED_AT_ONCE = 250
"""Prototypes decoded together in a round."""

BENT_AT_ONCE = 2000
"""Images changed and encoded together."""

SPARED = 2.0
"""Pixels that may still flip after all those that an Linf size suffices for."""

SPARED_SHARPNESS = 2.0
"""β of what is short of them."""

MINED_FOR_ONE = 4
"""Pairs that are mined by their distance in L2 for each that is kept by its distance in L0."""

MINED_ALONG = 96
"""Axes along which images and prototypes are compared when pairs are mined."""

MINED_SAMPLE = 512
"""About how many training images these axes are the principal ones of."""

HELD_OUT = 1 / 12
"""Share of the training images that choices between certified models are made on: 5,000 of MNIST."""

MEASURED = 500
"""Images held out that are certified in the end."""

MEASURED_AT: dict[Norm, tuple[float, ...]] = {"l2": (1.0, 1.5, 1.58, 2.0), "l0": (8.0, 12.0)}
"""The sizes that their certified accuracy is stored for, by norm."""

MEASURED_AT_BINARY: dict[Norm, tuple[float, ...]] = {"linf": (0.3,), "l0": (8.0, 12.0)}
"""The same for binary input."""

CERTIFIED_PROTOTYPES = 30_000
"""Of a class of a certified model, unless something else is asked for."""

CERTIFIED_BINARY_PROTOTYPES = 37_000
"""The same for binary input; with ``HIDDEN`` it takes 15 MB on disk."""

HIDDEN = (384, 384)
"""Widths of the layers of a certified model's VAEs; with ``CERTIFIED_PROTOTYPES`` it takes 14 MB on disk."""

EXPLAINING = TrainingSettings(epochs=240, batch_size=64, learning_rate=2e-3, seed=0, least_steps=400)
"""How the VAEs of a certified model are trained, before their decoders are for radii."""

EXPLAINING_BINARY = replace(EXPLAINING, epochs=480)
"""The same for binary input."""


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


AFTERWARDS = CertifiedSettings(images=5000, learning_rate=4e-4, averaged=0.8, target_weight=0.15)
"""What the second stages of both certified models have in common."""

CERTIFIED = (
    CertifiedSettings(),
    replace(
        AFTERWARDS,
        rounds=40,
        safety_weight=6.0,
        pixels_weight=0.035,
        tail=TAIL,
        prior_weight=0.7,
    ),
)
"""For the largest radii in L2, with some for L0 and for the decision."""

CERTIFIED_BINARY = (
    CertifiedSettings(),
    replace(
        AFTERWARDS,
        rounds=60,
        safety_weight=5.0,
        pixels=14.0,
        pixels_sharpness=0.7,
        pixels_weight=0.25,
        pixels_hopeless=6.0,
        reach=0.3,
        reach_weight=0.12,
        binary=True,
        prior_weight=0.85,
    ),
)
"""For the largest radii in L0 and Linf behind a threshold; the first rounds are of grey images."""

DECIDING = CertifiedSettings(
    rounds=12,
    images=14000,
    compared=4000,
    rivals=6,
    learning_rate=2e-4,
    target=1.5,
    target_weight=0.15,
    closeness=0.01,
    safety=0.5,
    safety_sharpness=6.0,
    copies=0,
)
"""For the decision, which a codebook gets wrong more often than the search of ABS does."""


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

    >>> [stage.rounds for stage in choose_stages(CERTIFIED_BINARY, 6)]
    [4, 2]
    """
    counts = [stage.rounds for stage in usual]
    if rounds is not None:
        ends = [round(rounds * sum(counts[: place + 1]) / sum(counts)) for place in range(len(counts))]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return tuple(
        choose_settings(stage, rounds=count, **changes) for stage, count in zip(usual, counts, strict=True)
    )


def decode(
    decoders: Sequence[nn.Module],
    latents: Float[Tensor, "class prototype latent"],
    entries: Int64[Tensor, "some"],
) -> tuple[Float[Tensor, "some pixel"], Float[Tensor, "some"]]:
    """Images and offsets of some entries of a codebook, each made once however often it is named.

    Args:
        decoders: One a class.
        latents: Of every class.
        entries: Which of them, counted through all classes.
    """
    wanted, places = entries.unique(return_inverse=True)
    classes = torch.div(wanted, latents.shape[1], rounding_mode="floor")
    chosen = latents.flatten(0, 1)[wanted]
    # What is wanted comes in order, so that each class's images follow those of the class before.
    images = torch.cat(
        [decoders[label](chosen[classes == label]).flatten(1) for label in classes.unique().tolist()]
    )
    offsets = 0.5 * chosen.square().sum(1)
    # With several threads, the derivative of images[places] is summed in another order in every run.
    return images.index_select(0, places), offsets[places]


def train_for_certificates(
    decoders: Sequence[Decoder],
    posterior: Posterior,
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    *,
    checkpoint: Path,
    progress: Progress,
    perturbation: Perturbation,
) -> list[float]:
    """Trains decoders for the certificates of a codebook, or goes on from where an interrupted run stopped.

    Args:
        decoders: One a class, without batch norm; they are changed.
        posterior: What the encoder of each training image's class says of it, and then perhaps of changed
            copies of all of them, in the same order.
        images: Training images.
        labels: Their classes.
        settings: How long and for what.
        checkpoint: Written after every round; a run that goes on from it ends with the same weights.
        progress: Where to show rounds and loss.
        perturbation: Changes the images a little.

    Returns:
        The mean loss of every round's pairs.

    Raises:
        AbsynthError: If the checkpoint is damaged or belongs to another run.
    """
    model = nn.ModuleList(decoders).requires_grad_(True).train()
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    schedule, average = schedule_and_average(model, optimizer, settings)
    signature = {
        **asdict(settings),
        "data": fingerprint(images, labels, *posterior),
        "start": fingerprint(*model.state_dict().values()),
    }
    kept = model if average is None else nn.ModuleList([model, average])
    run = Run(checkpoint, signature, kept, optimizer, schedule, generator)
    history = run.restore()
    basis = mining_axes(images)
    task = progress.add_task("certificates", total=settings.rounds, completed=len(history), note="")
    while len(history) < settings.rounds:
        history.append(
            _round(decoders, posterior, images, labels, settings, perturbation, optimizer, generator, basis)
        )
        schedule.step()
        if average is not None and settings.averages(len(history)):
            average.update_parameters(model)
        progress.update(task, advance=1, note=f"loss {history[-1]:.4f}")
        run.save(history)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.requires_grad_(False).eval()
    return history


def mining_axes(images: Images) -> Float[Tensor, "pixel axis"]:
    """The axes along which pairs are mined among training images."""
    return principal_axes(images.flatten(1), MINED_ALONG, MINED_SAMPLE).to(images.dtype)


def schedule_and_average(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: CertifiedSettings
) -> tuple[torch.optim.lr_scheduler.LRScheduler, AveragedModel | None]:
    """How the learning rate goes, and what averages the weights, if they are averaged.

    Args:
        model: What is learned.
        optimizer: Of its parameters.
        settings: Of the training.
    """
    if settings.averaged:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), AveragedModel(model)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, settings.rounds)), None


def draw_codebook(
    posterior: Posterior,
    labels: Labels,
    left_out: Int64[Tensor, "some"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "class prototype latent"]:
    """Draws from the posteriors of random training images of each class.

    Args:
        posterior: Of every training image.
        labels: Their classes.
        left_out: Images that are not drawn from, unless their class has no other.
        count: How many draws a class.
        generator: Source of the draws.
    """
    allowed = torch.ones(len(labels), dtype=torch.bool)
    allowed[left_out] = False
    latents = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        others = members[allowed[members]]
        sources = others if len(others) else members
        rows = sources[torch.randint(len(sources), (count,), generator=generator)]
        noise = torch.randn(count, posterior.mean.shape[1], generator=generator)
        latents.append(Posterior(posterior.mean[rows], posterior.log_variance[rows]).at(noise))
    return torch.stack(latents)


def _round(
    decoders: Sequence[Decoder],
    posterior: Posterior,
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    perturbation: Perturbation,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    basis: Float[Tensor, "pixel axis"],
) -> float:
    """Mines pairs and learns from them; the mean loss of the pairs."""
    chosen = torch.randint(len(images), (min(settings.images, len(images)),), generator=generator)
    changed = torch.cat(
        [perturbation(images[rows], generator) for rows in chosen.split(BENT_AT_ONCE)]
    ).flatten(1)
    truth = labels[chosen]
    copies = len(posterior.mean) // len(labels)
    left_out = torch.cat([chosen + len(labels) * number for number in range(copies)])
    part = draw_codebook(posterior, labels.repeat(copies), left_out, settings.compared, generator)
    shape = part.shape[:2]
    with torch.no_grad():
        pieces = [
            decode(decoders, part, entries) for entries in torch.arange(shape.numel()).split(DECODED_AT_ONCE)
        ]
    prototypes, offsets = (torch.cat(parts).unflatten(0, shape) for parts in zip(*pieces, strict=True))
    pairs = mine(
        settings.see(changed),
        truth,
        prototypes,
        offsets,
        rivals=settings.rivals * (MINED_FOR_ONE if settings.pixels_weight else 1),
        own=settings.own,
        basis=basis,
    )
    if settings.pixels_weight:
        pairs = nearest_in_pixels(pairs, settings.see(changed), prototypes, offsets, settings.rivals)
    make = partial(decode, decoders, part)
    return learn(pairs, changed, make, settings, optimizer, generator, distance=settings.distance)


def learn(
    pairs: Pairs,
    images: Float[Tensor, "batch pixel"],
    make: Callable[[Int64[Tensor, "some"]], tuple[Float[Tensor, "some pixel"], Float[Tensor, "some"]]],
    settings: CertifiedSettings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    distance: Distance,
) -> float:
    """One pass over the pairs of those images that are not beyond the target yet, a batch a step.

    Args:
        pairs: Mined among these images.
        images: Flattened, before threshold or clamp.
        make: The images and offsets of entries of the codebook, differentiably.
        settings: What is asked for.
        optimizer: Of what the codebook is made from.
        generator: Source of the order.
        distance: What measures the pairs in L2, differentiably.

    Returns:
        The mean of what the pairs are short of the target in L2.
    """
    # n changed pixels are at most √n away in L2.
    most = max(settings.target, math.sqrt(settings.pixels) if settings.pixels_weight else 0.0)
    near = (pairs.distance < most).nonzero()[:, 0]
    if len(near) == 0:
        # Without gradients it changes nothing; the schedule expects a step in every round.
        optimizer.zero_grad()
        optimizer.step()
        return 0.0
    total = 0.0
    for rows in near[torch.randperm(len(near), generator=generator)].split(settings.batch_size):
        batch = images[pairs.image[rows]][:, None]
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        made, energy = make(entries.flatten())
        own, rival = made.view(*entries.shape, -1)
        seen = settings.see(batch)
        difference = seen - torch.stack([own, rival])
        own_score, rival_score = difference.square().sum(-1) + energy.view_as(entries)
        margin = rival_score - own_score
        distances = distance(seen if settings.binary else batch, own, rival, margin)
        missing = shortfall(distances, settings.target, settings.sharpness)
        unsafe = shortfall(distances, settings.safety, settings.safety_sharpness)
        loss = settings.target_weight * missing + settings.safety_weight * unsafe
        loss = loss + settings.closeness * own_score.mean()
        if settings.pixels_weight:
            changed = pixel_distance(seen, own, rival, margin)
            loss = loss + settings.pixels_weight * lacking_pixels(changed, settings)
        if settings.reach_weight:
            given = ((batch - 0.5).abs() <= settings.reach).to(batch.dtype)
            spared = pixel_distance(seen, own, rival, margin, given)
            loss = loss + settings.reach_weight * shortfall(spared, SPARED, SPARED_SHARPNESS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(missing.detach()) * len(rows)
    return total / len(near)


def shortfall(distances: Float[Tensor, "batch pair"], target: float, sharpness: float) -> Float[Tensor, ""]:
    """The mean of softplus(β (t − h)) / β: by how much distances fall short of a target, smoothly."""
    return functional.softplus(sharpness * (target - distances)).mean() / sharpness


def lacking_pixels(distances: Float[Tensor, "batch pair"], settings: CertifiedSettings) -> Float[Tensor, ""]:
    """By how much distances in L0 fall short of the target, hopeless ones by hardly more than the rest."""
    lacking = shortfall(distances, settings.pixels, settings.pixels_sharpness)
    if settings.pixels_hopeless:
        lacking = lacking - shortfall(distances, settings.pixels_hopeless, settings.pixels_sharpness)
    return lacking


@torch.no_grad()
def encode(
    vaes: Sequence[VAE],
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    generator: torch.Generator,
) -> Posterior:
    """The posterior of each image by the encoder of its own class, and then of bent copies of all images.

    Args:
        vaes: One a class, in evaluation mode.
        images: Any number.
        labels: Their classes.
        settings: How many copies.
        generator: Source of the copies.
    """
    count = vaes[0].decoder.latents
    mean = images.new_empty(1 + settings.copies, len(images), count)
    log_variance = torch.empty_like(mean)
    for number in range(1 + settings.copies):
        for rows in torch.arange(len(images)).split(BENT_AT_ONCE):
            some = bend(images[rows], generator) if number else images[rows]
            for label in labels[rows].unique().tolist():
                members = labels[rows] == label
                found = posteriors(vaes[label], some[members])
                mean[number, rows[members]], log_variance[number, rows[members]] = found
    return Posterior(mean.flatten(0, 1), log_variance.flatten(0, 1))


def train_codebook_abs(
    base: Path,
    images: Images,
    labels: Labels,
    *,
    settings: CertifiedSettings,
    prototypes: int | None = None,
    out: Path,
    command: str,
    progress: Progress,
    validation: Validation | None = None,
) -> PretrainedModel:
    """Codebook ABS from a trained ABS: its decoders, trained on, with latents found in the training images.

    Prototypes of such latents lie closer to images of their class than those of latents drawn from the prior,
    and close own prototypes are what certificates need. An interrupted run goes on where it was when it is
    started again with the same ``out``.

    Args:
        base: Folder of a trained ABS.
        images: Training images.
        labels: Their classes.
        settings: Of the training; without rounds the decoders stay as they are.
        prototypes: Prototypes a class of the finished model; by default as many as suit the data.
        out: Folder of the finished model; the checkpoint lies in its ``checkpoints``.
        command: Stored beside the weights.
        progress: Where to show the training and the measurements.
        validation: Which images to hold out for choices between settings; by default none.

    Raises:
        AbsynthError: If the base is no ABS, or a class of it has no images.
    """
    domain = read_domain(read_config(base))
    return _finish(
        read_vaes(base),
        images,
        labels,
        (settings,),
        domain=domain,
        prototypes=prototypes,
        out=out,
        record={"command": command},
        progress=progress,
        split=validation or Validation(),
        perturbation=bend,
        alpha=ALPHA if domain.digits else None,
    )


def train_certified_abs(
    images: Images,
    labels: Labels,
    *,
    explaining: TrainingSettings = EXPLAINING,
    hidden: Sequence[int] = HIDDEN,
    stages: Sequence[CertifiedSettings],
    prototypes: int | None = None,
    out: Path,
    command: str,
    progress: Progress,
    domain: Domain | None = None,
    validation: Validation | None = None,
    fit_vaes: FitVAEs = fit_in_turn,
) -> PretrainedModel:
    """Codebook ABS for certificates, from nothing: fully connected VAEs, and then their decoders for radii.

    An interrupted run goes on where it was when it is started again with the same ``out``.

    Args:
        images: Training images.
        labels: Their classes.
        explaining: Of the VAEs; their seed is that of the last stage.
        hidden: Widths of their layers.
        stages: Of the training for certificates, one after the other; the last says what the model stands
            behind. The VAEs see grey images in any case: of these the encoders tell more.
        prototypes: Prototypes a class of the finished model; by default as many as suit the data.
        out: Folder of the finished model; the checkpoints lie in its ``checkpoints``.
        command: Stored beside the weights.
        progress: Where to show the training and the measurements.
        domain: What the images are, kept in the model's config; by default classes called by their numbers.
        validation: Which images to hold out for choices between settings; by default none.
        fit_vaes: Where the VAEs are trained; by default in this process, one after the other. The rounds are
            always in this process.

    Raises:
        AbsynthError: If there are not at least 2 classes of at least one image each.
    """
    domain = check_classes(images, labels, domain)
    split = validation or Validation()
    trained, _ = split.split(labels)
    explaining = replace(explaining, seed=stages[-1].seed)
    vaes, histories = train_vaes(
        images[trained],
        labels[trained],
        explaining,
        classes=int(labels.max()) + 1,
        folder=out / "checkpoints",
        progress=progress,
        perturbation=bend,
        hidden=hidden,
        fit_vaes=fit_vaes,
    )
    losses = [round(history[-1], 3) for history in histories]
    explained = {**vars(explaining), "hidden": list(hidden), "final_loss": losses}
    return _finish(
        vaes,
        images,
        labels,
        stages,
        domain=domain,
        prototypes=prototypes,
        out=out,
        record={"command": command, "explaining": explained},
        progress=progress,
        split=split,
        perturbation=distort,
        alpha=None,
    )


def _finish(
    vaes: Sequence[VAE],
    images: Images,
    labels: Labels,
    stages: Sequence[CertifiedSettings],
    *,
    domain: Domain,
    prototypes: int | None,
    out: Path,
    record: dict[str, Any],
    progress: Progress,
    split: Validation,
    perturbation: Perturbation,
    alpha: float | None,
) -> PretrainedModel:
    """Trains the decoders of VAEs for certificates, and saves the codebook that they make.

    What a model stands behind, what its latents are found in and every draw but those of the rounds are as
    the last stage says. Without a given ``alpha`` the sharpness of the confidence is fitted to how well the
    codebook explains images.
    """
    trained, held_out = split.split(labels)
    decoders = [vae.eval().decoder.folded() for vae in vaes]
    height, width = decoders[0].image_size
    count = codebook_size(len(vaes), height * width) if prototypes is None else prototypes
    settings = stages[-1]
    generator = torch.Generator().manual_seed(settings.seed)
    posterior = encode(vaes, images[trained], labels[trained], settings, generator)
    latents = torch.stack(
        [
            codebook_latents(posterior, labels[trained] == label, count, generator)
            for label in range(len(vaes))
        ]
    )
    history: list[float] = []
    used = [replace(stage, compared=min(stage.compared, count)) for stage in stages]
    for number, stage in enumerate(used, start=1):
        history = train_for_certificates(
            decoders,
            posterior,
            images[trained],
            labels[trained],
            replace(stage, tail=0.0, prior_weight=1.0),
            checkpoint=out / "checkpoints" / ("codebook.pt" if number == 1 else f"codebook-{number}.pt"),
            progress=progress,
            perturbation=perturbation,
        )
    codebook = CodebookABS(decoders, latents, prior_weight=settings.prior_weight)
    round_to_half(codebook)
    codebook.prepare()
    if alpha is None:
        seen = settings.see(images)
        alpha = fit_sharpness(codebook, seen, held_out if len(held_out) else trained)
    codebook.alpha = alpha
    model = settings.behind(codebook)
    model.domain = domain
    record |= {**asdict(used[-1]), "trained_on": len(trained)}
    record |= {"before": [asdict(stage) for stage in used[:-1]]} if len(used) > 1 else {}
    record |= {"final_loss": round(history[-1], 4)} if history else {}
    record |= validate(model, images[held_out], labels[held_out], split, progress)
    some = held_out[torch.randperm(len(held_out), generator=generator)[:MEASURED]]
    if len(some):
        record["certified"] = {"images": len(some)} | {
            norm: certified_figures(
                certify(model, images[some], labels[some], norm, progress=progress), sizes
            )
            for norm, sizes in (MEASURED_AT_BINARY if settings.binary else MEASURED_AT).items()
        }
    model.save_pretrained(out, record)
    return model.requires_grad_(False)


def certified_figures(certificate: Certificate, sizes: Sequence[float]) -> dict[str, Any]:
    """The mean and the median radius, and the certified accuracy by size, as JSON values."""
    radius = certificate.radius
    return {
        "mean": round(float(radius.mean()), 4),
        "median": round(float(radius.quantile(0.5)), 4),
        "accuracy": {f"{size:g}": float((radius >= size).double().mean()) for size in sizes},
    }
