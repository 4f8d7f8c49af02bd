"""Training the decoders of a codebook for its certificates.

The certified radius of an image is the least distance h(q, p) to a half-space in which a rival prototype q
beats an own one p, where p may be chosen for each q (:mod:`absynth.certify.halfspace`). So in every round

1. some training images are changed a little, each in its own way, and prototypes are decoded from the
   posteriors of others: an image that had its own latent in the codebook would be too easy;
2. for each image the rivals with the smallest distance are mined, and the best own prototype against each;
3. Adam lowers the mean over these pairs of softplus(β (t − h)) / β, plus a little of the own prototype's
   score, through the decoders.

What is mined goes stale as the decoders move, so that a round takes few and small steps. The prototypes stay
what decoders make of latents: moved freely, they fit the training images and gain nothing on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from absynth.certify import certify
from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.inference.codebook import DECODED_AT_ONCE
from absynth.models.pretrained import read_config, read_domain
from absynth.models.vae import VAE, Decoder, Posterior
from absynth.progress import Progress
from absynth.recipes import fit_sharpness, posterior_latents, posteriors, read_vaes, validate
from absynth.shapes import Images, Labels
from absynth.training import Perturbation, Run, bend, fingerprint

IMAGES_AT_ONCE = 100
"""Images compared with all prototypes together; 16 MB for each 40,000."""

NEWTON_STEPS = 8
"""Of the search for the multiplier in :func:`box_distance`; its derivative needs no more."""

HELD_OUT = 1 / 12
"""Share of the training images that choices are made on, where the base held out none: 5,000 of MNIST."""

MEASURED = 500
"""Images held out that are certified in the end."""

MEASURED_AT = (1.0, 1.5, 1.58, 2.0)
"""The sizes that their certified accuracy is stored for."""

CERTIFIED_PROTOTYPES = 8000
"""Of a class, unless something else is asked for."""

LEAST_STEEPNESS = 1e-4
"""Σ_free g² below which a pair is taken to be out of the box's reach."""


@dataclass(frozen=True)
class CertifiedSettings:
    """How to train for certificates.

    Attributes:
        rounds: How often pairs are mined and learned from.
        images: Training images a round.
        compared: Prototypes a class in a round.
        rivals: Pairs an image.
        own: Nearest own prototypes that the one against a rival is chosen from.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start; it falls to 0 along a cosine.
        target: t, the distance in L2 beyond which a pair no longer matters.
        sharpness: β, how suddenly it stops mattering.
        closeness: Weight of the own prototypes' scores.
        seed: Of every draw.
    """

    rounds: int = 24
    images: int = 6000
    compared: int = 4000
    rivals: int = 6
    own: int = 4
    batch_size: int = 100
    learning_rate: float = 3e-4
    target: float = 1.9
    sharpness: float = 4.0
    closeness: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Sees that the numbers make sense.

        Raises:
            AbsynthError: If one does not.
        """
        counts = (self.rounds, self.images, self.compared, self.rivals, self.own, self.batch_size)
        if min(counts) < 1 or not min(self.learning_rate, self.target, self.sharpness) > 0:
            raise AbsynthError(
                "Training for certificates needs at least 1 of everything that is counted, and a learning "
                "rate, target and sharpness above 0."
            )


def certified_settings(
    rounds: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    target: float | None,
    seed: int,
) -> CertifiedSettings:
    """The default settings, with those replaced that are given.

    Raises:
        AbsynthError: If a setting makes no sense.
    """
    given = {"rounds": rounds, "batch_size": batch_size, "learning_rate": learning_rate, "target": target}
    return CertifiedSettings(seed=seed, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


class Pairs(NamedTuple):
    """Which prototypes to compare for each image, as entries of the codebook with its classes in a row.

    Attributes:
        image: Rows of the images, which may come in another order.
        own: Entries of the image's class.
        rival: Entries of other classes, against each of which the own one stands.
    """

    image: Int64[Tensor, "batch"]
    own: Int64[Tensor, "batch pair"]
    rival: Int64[Tensor, "batch pair"]


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
            found.append(Pairs(rows, nearest.gather(1, better.argmax(-1)), rival))
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
        latents.append(posterior.mean[rows] + noise * (0.5 * posterior.log_variance[rows]).exp())
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
    chosen = torch.randint(len(images), (settings.images,), generator=generator)
    changed = torch.cat([perturbation(images[rows], generator) for rows in chosen.split(1000)]).flatten(1)
    truth = labels[chosen]
    part = draw_codebook(posterior, labels, chosen, settings.compared, generator)
    shape = part.shape[:2]
    with torch.no_grad():
        pieces = [
            decode(decoders, part, entries) for entries in torch.arange(shape.numel()).split(DECODED_AT_ONCE)
        ]
    prototypes, offsets = (torch.cat(parts).unflatten(0, shape) for parts in zip(*pieces, strict=True))
    pairs = mine(changed, truth, prototypes, offsets, rivals=settings.rivals, own=settings.own)
    total = 0.0
    for rows in torch.randperm(len(chosen), generator=generator).split(settings.batch_size):
        batch = changed[pairs.image[rows]][:, None]
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        made, energy = decode(decoders, part, entries.flatten())
        own, rival = made.view(*entries.shape, -1)
        own_score, rival_score = (batch - torch.stack([own, rival])).square().sum(-1) + energy.view_as(
            entries
        )
        distance = box_distance(batch, own, rival, rival_score - own_score)
        missing = (
            functional.softplus(settings.sharpness * (settings.target - distance)).mean() / settings.sharpness
        )
        loss = missing + settings.closeness * own_score.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(missing.detach()) * len(rows)
    return total / len(chosen)


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


def train_certified_abs(
    base: Path,
    images: Images,
    labels: Labels,
    *,
    settings: CertifiedSettings,
    prototypes: int,
    out: Path,
    command: str,
    progress: Progress,
    validation: Validation | None = None,
) -> CodebookABS:
    """Codebook ABS whose decoders are trained for its certificates, from those of a trained ABS.

    An interrupted run goes on where it was when it is started again with the same ``out``.

    Args:
        base: Folder of a trained ABS.
        images: Training images.
        labels: Their classes.
        settings: Of the training.
        prototypes: Prototypes a class of the finished model.
        out: Folder of the finished model; the checkpoint lies in its ``checkpoints``.
        command: Stored beside the weights.
        progress: Where to show the training and the measurements.
        validation: Which images to hold out for choices between settings; by default ``HELD_OUT`` of them.

    Raises:
        AbsynthError: If the base is no ABS, or a class of it has no images.
    """
    split = validation if validation and validation.share else Validation(HELD_OUT, settings.seed)
    trained, held_out = split.split(labels)
    vaes = [vae.eval() for vae in read_vaes(base)]
    decoders = [vae.decoder.folded() for vae in vaes]
    history = train_for_certificates(
        decoders,
        encode(vaes, images[trained], labels[trained]),
        images[trained],
        labels[trained],
        settings,
        checkpoint=out / "checkpoints" / "certified.pt",
        progress=progress,
        perturbation=bend,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    latents = [
        posterior_latents(vae, images[trained[labels[trained] == label]], prototypes, generator)
        for label, vae in enumerate(vaes)
    ]
    model = CodebookABS(decoders, torch.stack(latents))
    model.domain = read_domain(read_config(base))
    model.prepare()
    if not model.domain.digits:
        model.alpha = fit_sharpness(model, images, held_out if len(held_out) else trained)
    some = held_out[torch.randperm(len(held_out), generator=generator)[:MEASURED]]
    radius = certify(model, images[some], labels[some], "l2", progress=progress).radius
    model.save_pretrained(
        out,
        {
            "command": command,
            **asdict(settings),
            "final_loss": round(history[-1], 4),
            "images": len(trained),
            **validate(model, images[held_out], labels[held_out], split, progress),
            "certified": {
                "images": len(some),
                "mean_l2_radius": round(float(radius.mean()), 4),
                "accuracy": {f"{size:g}": float((radius >= size).double().mean()) for size in MEASURED_AT},
            },
        },
    )
    return model.requires_grad_(False)
