"""Training the decoders of a codebook for its decisions and its certificates.

The certified radius of an image is the least distance h(q, p) to a half-space in which a rival prototype q
beats an own one p, where p may be chosen for each q (:mod:`absynth.certify.halfspace`). So in every round

1. some training images are changed a little, each in its own way, and prototypes are decoded from the
   posteriors of others: an image that had its own latent in the codebook would be too easy;
2. for each image the rivals with the smallest distance are mined, and the best own prototype against each;
3. Adam lowers the mean over these pairs of softplus(β (t − h)) / β, once with a target t for the certificates
   and once with a small and sharp one for the decision itself, plus a little of the own prototype's score,
   through the decoders. Images that are beyond the target already are left out.

What is mined goes stale as the decoders move, so that a round takes few and small steps. The prototypes stay
what decoders make of latents: moved freely, they fit the training images and gain nothing on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from absynth.certify import Certificate, certify
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.inference.codebook import DECODED_AT_ONCE
from absynth.models.cnn import Binarized, binarize
from absynth.models.pretrained import PretrainedModel, read_config, read_domain, round_to_half
from absynth.models.vae import VAE, Decoder, Posterior
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.recipes import (
    codebook_size,
    fit_sharpness,
    posterior_latents,
    posteriors,
    read_vaes,
    validate,
)
from absynth.shapes import Images, Labels
from absynth.training import Perturbation, Run, bend, fingerprint

IMAGES_AT_ONCE = 100
"""Images compared with all prototypes together; 16 MB for each 40,000."""

NEWTON_STEPS = 8
"""Of the search for the multiplier in :func:`box_distance`; its derivative needs no more."""

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

LEAST_STEEPNESS = 1e-4
"""Σ_free g² below which a pair is taken to be out of the box's reach."""

MOST_FLIPS = 40
"""Flipped pixels that are told apart in :func:`flip_distance`."""

LEAST_GAIN = 0.05
"""Of a flip, where the number of flips that are missing is estimated from it."""


@dataclass(frozen=True)
class CertifiedSettings:
    """How to train for certificates.

    Attributes:
        rounds: How often pairs are mined and learned from.
        images: Training images that are looked at in a round.
        compared: Prototypes a class in a round.
        rivals: Pairs an image.
        own: Nearest own prototypes that the one against a rival is chosen from.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start; it falls to 0 along a cosine.
        target: t, the distance in L2 beyond which a pair no longer matters.
        sharpness: β, how suddenly it stops mattering.
        target_weight: Of what is short of this target, beside the 1 of what is short of the next.
        safety: The target for the decision: an image this close to another class counts as nearly lost.
        safety_sharpness: Its β.
        binary: Whether for binary input: distances are then in flipped pixels.
        reach: For binary input, an Linf size that the decision is to stand with ``safety`` flips to spare.
        closeness: Weight of the own prototypes' scores.
        seed: Of every draw.
    """

    rounds: int = 60
    images: int = 8000
    compared: int = 4000
    rivals: int = 6
    own: int = 4
    batch_size: int = 100
    learning_rate: float = 3e-4
    target: float = 1.9
    sharpness: float = 4.0
    target_weight: float = 1.0
    safety: float = 0.4
    safety_sharpness: float = 8.0
    binary: bool = False
    reach: float = 0.0
    closeness: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        counts = (self.images, self.compared, self.rivals, self.own, self.batch_size)
        sizes = (self.learning_rate, self.target, self.sharpness, self.safety, self.safety_sharpness)
        if self.rounds < 0 or min(counts) < 1 or not min(sizes) > 0 or not self.target_weight >= 0:
            raise AbsynthError(
                "Training a codebook needs at least 1 of everything that is counted but the rounds, and a "
                "learning rate, targets and sharpness above 0."
            )


CERTIFIED = CertifiedSettings()
"""For the largest radii."""

CERTIFIED_BINARY = CertifiedSettings(
    target=16.0,
    sharpness=0.5,
    safety=2.0,
    safety_sharpness=2.0,
    binary=True,
    reach=0.3,
    closeness=0.05,
)
"""For the largest radii in L0 and Linf behind a threshold."""

DECIDING = CertifiedSettings(
    rounds=12,
    images=14000,
    learning_rate=2e-4,
    target=1.5,
    target_weight=0.15,
    safety=0.5,
    safety_sharpness=6.0,
)
"""For the decision, which a codebook gets wrong more often than the search of ABS does."""


def choose_settings(usual: CertifiedSettings, **changes: float | None) -> CertifiedSettings:
    """Settings with those replaced that are not None.

    Raises:
        AbsynthError: If a setting makes no sense.
    """
    return replace(usual, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


class Pairs(NamedTuple):
    """Which prototypes to compare for each image, as entries of the codebook with its classes in a row.

    Attributes:
        image: Rows of the images, which may come in another order.
        own: Entries of the image's class.
        rival: Entries of other classes, against each of which the own one stands.
        distance: To the nearest of these rivals, without the box; a lower bound on that with it.
    """

    image: Int64[Tensor, "batch"]
    own: Int64[Tensor, "batch pair"]
    rival: Int64[Tensor, "batch pair"]
    distance: Float[Tensor, "batch"]


def box_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
) -> Float[Tensor, "batch pair"]:
    """The L2 distance to where a rival beats an own prototype, with the box [0, 1], differentiably.

    With g = 2(q − p), the nearest point moves each pixel by λ g until it meets the box. λ and the set of
    pixels that meet it are found without a derivative; for these fixed, the distance is the root of
    (m − Σ_met abs(g) room)² / Σ_free g² + Σ_met room², whose derivative is the distance's own. Where the
    margin m is negative, or more than the box leaves, it is m / ‖g‖, which still says which way is better.

    Args:
        images: x, flattened.
        own: p.
        rivals: q.
        margins: m = s_q(x) − s_p(x).
    """
    slopes = 2 * (rivals - own)
    with torch.no_grad():
        room = torch.where(slopes > 0, 1 - images, images)
        steep, caps = slopes.square(), slopes.abs() * room
        multiplier = torch.zeros_like(margins)
        for _ in range(NEWTON_STEPS):
            gains = steep * multiplier[..., None]
            free = gains < caps
            short = margins - torch.where(free, gains, caps).sum(-1)
            multiplier += short / (steep * free).sum(-1).clamp(min=1e-6)
        free = steep * multiplier[..., None] < caps
    left = margins - (slopes.abs() * room * ~free).sum(-1)
    steepness = (slopes.square() * free).sum(-1)
    moved = left.square() / steepness.clamp(min=LEAST_STEEPNESS)
    with_box = (moved + (room.square() * ~free).sum(-1) + 1e-9).sqrt()
    reached = (margins > 0) & (left > 0) & (steepness > LEAST_STEEPNESS)
    return torch.where(reached, with_box, margins / slopes.norm(dim=-1))


def flip_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
    given: Float[Tensor, "batch 1 pixel"] | None = None,
) -> Float[Tensor, "batch pair"]:
    """How many flipped pixels it takes until a rival beats an own prototype, in fractions, differentiably.

    A flip of pixel i brings the rival nearer by its gain. The gains of the best flips are added up until
    they reach the margin, the last one in part; beyond ``MOST_FLIPS`` each counts as the last of them.
    A negative margin counts as flips of the best pixel that are missing.

    Args:
        images: b, flattened, each pixel 0 or 1.
        own: p.
        rivals: q.
        margins: m = s_q(b) − s_p(b).
        given: 1 for pixels that flip in any case if that helps the rival; they are not counted.
    """
    gains = ((1 - 2 * images) * 2 * (rivals - own)).clamp(min=0)
    if given is not None:
        margins = margins - (gains * given).sum(-1)
        gains = gains * (1 - given)
    best = gains.topk(min(MOST_FLIPS, gains.shape[-1])).values
    total = functional.pad(best.cumsum(-1), (1, 0))
    with torch.no_grad():
        whole = (total[..., 1:-1] < margins[..., None]).sum(-1, keepdim=True)
    part = (margins - total.gather(-1, whole)[..., 0]) / best.gather(-1, whole)[..., 0].clamp(min=LEAST_GAIN)
    return whole[..., 0] + part


@torch.no_grad()
def mine(
    images: Float[Tensor, "batch pixel"],
    labels: Labels,
    prototypes: Float[Tensor, "class prototype pixel"],
    offsets: Float[Tensor, "class prototype"],
    *,
    rivals: int,
    own: int,
) -> Pairs:
    """The rivals nearest to winning each image, by the distance without the box.

    Args:
        images: x, flattened.
        labels: Their classes.
        prototypes: Of all classes.
        offsets: Their offsets.
        rivals: How many an image.
        own: How many own prototypes may be chosen from.
    """
    count = prototypes.shape[1]
    flat = prototypes.flatten(0, 1)
    squares = flat.square().sum(1)
    energies = squares + offsets.flatten()
    found = []
    for label in labels.unique().tolist():
        members = slice(label * count, (label + 1) * count)
        for rows in (labels == label).nonzero()[:, 0].split(IMAGES_AT_ONCE):
            scores = torch.addmm(energies, images[rows], flat.T, alpha=-2)
            own_scores, nearest = scores[:, members].topk(min(own, count), largest=False)
            nearest = nearest + members.start
            first = nearest[:, 0]
            squared = torch.addmm(squares, flat[first], flat.T, alpha=-2) + squares[first, None]
            heights = (scores - own_scores[:, :1]) / squared.clamp(min=1e-3).sqrt()
            heights[:, members] = torch.inf
            rival = heights.topk(rivals, largest=False).indices
            lengths = torch.linalg.vector_norm(flat[nearest][:, None] - flat[rival][:, :, None], dim=-1)
            better = (scores.gather(1, rival)[:, :, None] - own_scores[:, None]) / lengths.clamp(min=1e-3)
            distances, chosen = better.max(-1)
            found.append(Pairs(rows, nearest.gather(1, chosen), rival, distances.amin(1) / 2))
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


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
    return images[places], offsets[places]


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
        posterior: What the encoder of each training image's class says of it.
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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.rounds)
    signature = {
        **asdict(settings),
        "data": fingerprint(images, labels, *posterior),
        "start": fingerprint(*model.state_dict().values()),
    }
    run = Run(checkpoint, signature, model, optimizer, schedule, generator)
    history = run.restore()
    task = progress.add_task("certificates", total=settings.rounds, completed=len(history), note="")
    while len(history) < settings.rounds:
        history.append(
            _round(decoders, posterior, images, labels, settings, perturbation, optimizer, generator)
        )
        schedule.step()
        progress.update(task, advance=1, note=f"loss {history[-1]:.4f}")
        run.save(history)
    model.requires_grad_(False).eval()
    return history


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
) -> float:
    """Mines pairs and learns from them; the mean loss of the pairs."""
    chosen = torch.randint(len(images), (min(settings.images, len(images)),), generator=generator)
    changed = torch.cat([perturbation(images[rows], generator) for rows in chosen.split(1000)]).flatten(1)
    flipped = (changed - 0.5).abs() <= settings.reach
    if settings.binary:
        changed = binarize(changed)
    truth = labels[chosen]
    part = draw_codebook(posterior, labels, chosen, settings.compared, generator)
    shape = part.shape[:2]
    with torch.no_grad():
        pieces = [
            decode(decoders, part, entries) for entries in torch.arange(shape.numel()).split(DECODED_AT_ONCE)
        ]
    prototypes, offsets = (torch.cat(parts).unflatten(0, shape) for parts in zip(*pieces, strict=True))
    pairs = mine(changed, truth, prototypes, offsets, rivals=settings.rivals, own=settings.own)
    # n flips are √n away in L2.
    most = math.sqrt(settings.target) if settings.binary else settings.target
    near = (pairs.distance < most).nonzero()[:, 0]
    if len(near) == 0:
        # Without gradients it changes nothing; the schedule expects a step in every round.
        optimizer.zero_grad()
        optimizer.step()
        return 0.0
    total = 0.0
    for rows in near[torch.randperm(len(near), generator=generator)].split(settings.batch_size):
        batch = changed[pairs.image[rows]][:, None]
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        made, energy = decode(decoders, part, entries.flatten())
        own, rival = made.view(*entries.shape, -1)
        own_score, rival_score = (batch - torch.stack([own, rival])).square().sum(-1) + energy.view_as(
            entries
        )
        margin = rival_score - own_score
        distance = (flip_distance if settings.binary else box_distance)(batch, own, rival, margin)
        missing = shortfall(distance, settings.target, settings.sharpness)
        unsafe = shortfall(distance, settings.safety, settings.safety_sharpness)
        if settings.reach:
            given = flipped[pairs.image[rows]][:, None].to(batch.dtype)
            spared = flip_distance(batch, own, rival, margin, given)
            unsafe = unsafe + shortfall(spared, settings.safety, settings.safety_sharpness)
        loss = settings.target_weight * missing + unsafe + settings.closeness * own_score.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(missing.detach()) * len(rows)
    return total / len(near)


def shortfall(distances: Float[Tensor, "batch pair"], target: float, sharpness: float) -> Float[Tensor, ""]:
    """The mean of softplus(β (t − h)) / β: by how much distances fall short of a target, smoothly."""
    return functional.softplus(sharpness * (target - distances)).mean() / sharpness


@torch.no_grad()
def encode(vaes: Sequence[VAE], images: Images, labels: Labels) -> Posterior:
    """The posterior of each image by the encoder of its own class.

    Args:
        vaes: One a class, in evaluation mode.
        images: Any number.
        labels: Their classes.
    """
    count = vaes[0].decoder.latents
    mean, log_variance = images.new_empty(len(images), count), images.new_empty(len(images), count)
    for label, vae in enumerate(vaes):
        members = labels == label
        mean[members], log_variance[members] = posteriors(vae, images[members])
    return Posterior(mean, log_variance)


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
    split = validation or Validation()
    trained, held_out = split.split(labels)
    vaes = [vae.eval() for vae in read_vaes(base)]
    decoders = [vae.decoder.folded() for vae in vaes]
    height, width = decoders[0].image_size
    count = codebook_size(len(vaes), height * width) if prototypes is None else prototypes
    generator = torch.Generator().manual_seed(settings.seed)
    latents = [
        posterior_latents(vae, images[trained[labels[trained] == label]], count, generator)
        for label, vae in enumerate(vaes)
    ]
    settings = replace(settings, compared=min(settings.compared, count))
    history = train_for_certificates(
        decoders,
        encode(vaes, images[trained], labels[trained]),
        images[trained],
        labels[trained],
        settings,
        checkpoint=out / "checkpoints" / "codebook.pt",
        progress=progress,
        perturbation=bend,
    )
    codebook = CodebookABS(decoders, torch.stack(latents))
    domain = read_domain(read_config(base))
    round_to_half(codebook)
    codebook.prepare()
    if not domain.digits:
        seen = binarize(images) if settings.binary else images
        codebook.alpha = fit_sharpness(codebook, seen, held_out if len(held_out) else trained)
    model = Binarized(codebook) if settings.binary else codebook
    model.domain = domain
    record = {"command": command, **asdict(settings), "trained_on": len(trained)}
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
