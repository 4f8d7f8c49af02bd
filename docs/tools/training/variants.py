"""How the ideas for the training for certificates are carried out; the recipe is the first of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from rounds import (
    Decoded,
    Energies,
    Learning,
    Offer,
    both_decoders,
    embed,
    learn_hinge,
    make_all,
    run_rounds,
)
from study import SECOND_SEED, Start, Study
from torch import Tensor, nn
from torch.nn import functional

from absynth.models.vae import VAE, Posterior
from absynth.progress import Progress
from absynth.shapes import Images
from absynth.training.augmentation import BENT_AT_ONCE, Perturbation, bend, distort
from absynth.training.certified.learning import learn
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.certified.stage import decode

BIAS_RATE = 1e-3
"""The learning rate of the classes' biases."""

PRIOR_RATE = 6e-3
"""Of priors: small networks, which start from nothing."""

PRIOR_HIDDEN = 32
"""Units in each of the two hidden layers of a prior."""

PROTOTYPE_RATE = 2e-3
"""Of prototypes that are learned themselves."""

CANDIDATES = 3.75
"""Prototypes that a pruned codebook is chosen from, to each that is kept: 30,000 to 8,000."""

PRUNED_BY = 5
"""Bent copies of every image of the class that say which are kept."""

PEN = 0.5
"""The most that a pixel moves to its lightest or darkest neighbour where images are written anew."""

SCORES_AT_ONCE = 500
"""Images scored together where prototypes are counted."""


@dataclass(frozen=True)
class Outcome:
    """What an idea makes.

    Attributes:
        prototypes: Its codebook.
        offsets: Its offsets.
        history: The loss of every round.
    """

    prototypes: Float[Tensor, "class prototype pixel"]
    offsets: Float[Tensor, "class prototype"]
    history: list[float]


Training = Callable[[Study, CertifiedSettings, Progress], Outcome]


def straight_distance(
    images: Float[Tensor, "batch 1 pixel"],
    own: Float[Tensor, "batch pair pixel"],
    rivals: Float[Tensor, "batch pair pixel"],
    margins: Float[Tensor, "batch pair"],
) -> Float[Tensor, "batch pair"]:
    """The distance without the box, m / ‖2(q − p)‖."""
    lengths: Tensor = (2 * (rivals - own)).norm(dim=-1).clamp(min=1e-3)
    return margins / lengths


def unchanged(images: Images, generator: torch.Generator) -> Images:
    """The images as they are."""
    return images


def rewrite(images: Images, generator: torch.Generator) -> Images:
    """Writes every image with a thicker or a thinner pen, and then bends half of them.

    Each pixel is moved towards the largest or the smallest of its neighbours, by a share of up to ``PEN``
    that is the image's own.
    """
    thicker = functional.max_pool2d(images, 3, 1, 1)
    thinner = -functional.max_pool2d(-images, 3, 1, 1)
    shares = (torch.rand(len(images), 1, 1, 1, generator=generator) * 2 - 1) * PEN
    return distort(torch.lerp(images, torch.where(shares > 0, thicker, thinner), shares.abs()), generator)


def recipe(
    study: Study,
    settings: CertifiedSettings,
    progress: Progress,
    *,
    learning: Learning = learn_hinge,
    perturbation: Perturbation = distort,
    factor: float = 1.0,
) -> Outcome:
    """The recipe, or one that differs in what can be handed to it."""
    start = study.start(progress)
    if settings.copies != study.settings.copies:
        start = study.begin(start.vaes, settings)
    book = Decoded(start.decoders(), study.classes, factor)
    history = rounds(study, settings, progress, book, [start], learning=learning, perturbation=perturbation)
    return Outcome(*book.table(study.latents(start.posterior)), history)


def rounds(
    study: Study,
    settings: CertifiedSettings,
    progress: Progress,
    book: Decoded,
    starts: Sequence[Start],
    *,
    biases: Sequence[nn.Parameter] = (),
    learning: Learning = learn_hinge,
    perturbation: Perturbation = distort,
) -> list[float]:
    """The rounds in which decoders learn, and biases and priors at rates of their own.

    Latents are drawn anew in each.
    """
    weights = list(nn.ModuleList(book.decoders).parameters())
    groups: list[dict[str, Any]] = [{"params": weights}]
    priors = list(nn.ModuleList(book.priors).parameters())
    groups += [{"params": priors, "lr": PRIOR_RATE}] if priors else []
    groups += [{"params": list(biases), "lr": BIAS_RATE}] if biases else []
    _, labels = study.trained
    return run_rounds(
        book.drawn(starts, labels, min(settings.compared, study.prototypes)),
        groups,
        *study.trained,
        settings,
        progress=progress,
        perturbation=perturbation,
        learning=learning,
    )


def clamped(study: Study, settings: CertifiedSettings, progress: Progress, *, factor: float = 1.0) -> Outcome:
    """The recipe without a clamp, which is put in front of what comes of it; perhaps with other offsets."""
    made = recipe(study, replace(settings, tail=0.0), progress)
    return replace(made, offsets=factor * made.offsets)


def behind_clamp(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The recipe with a clamp in front from the first round on."""
    return recipe(study, settings, progress, learning=partial(learn, distance=settings.distance))


def learned_latents(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The latents of the finished codebook are learned together with the decoders."""
    start = study.start(progress)
    book = Decoded(start.decoders(), study.classes)
    latents = nn.Parameter(study.latents(start.posterior))
    history = run_rounds(
        lambda chosen, generator: book.offer(latents),
        [*nn.ModuleList(book.decoders).parameters(), latents],
        *study.trained,
        settings,
        progress=progress,
        perturbation=distort,
    )
    return Outcome(*book.table(latents.detach()), history)


def with_noise(study: Study, settings: CertifiedSettings, progress: Progress, *, factor: float) -> Outcome:
    """The rounds draw from posteriors of another width; the finished codebook consists of means as ever."""
    start = study.start(progress)
    mean, log_variance = start.posterior
    # A factor of 0 makes the logarithm −∞, and the draws the means.
    wider = Posterior(mean, log_variance + 2 * torch.tensor(factor).log())
    book = Decoded(start.decoders(), study.classes)
    history = rounds(study, settings, progress, book, [Start(start.vaes, wider)])
    return Outcome(*book.table(study.latents(start.posterior)), history)


def learned_encoders(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The encoders learn too: a prototype is what its class's VAE makes of a bent image, without noise."""
    vaes = [deepcopy(vae).requires_grad_(True) for vae in study.start(progress).vaes]
    images, labels = study.trained
    count = min(settings.compared, study.prototypes)

    def source(chosen: Int64[Tensor, "some"], generator: torch.Generator) -> Offer:
        allowed = torch.ones(len(labels), dtype=torch.bool)
        allowed[chosen] = False
        pools = []
        for label in range(study.classes):
            members = ((labels == label) & allowed).nonzero()[:, 0]
            rows = members[torch.randint(len(members), (count,), generator=generator)]
            pools.append(torch.cat([bend(images[some], generator) for some in rows.split(BENT_AT_ONCE)]))
        make = partial(autoencode, vaes, torch.cat(pools), count)
        return Offer(*make_all(make, study.classes, count), make)

    history = run_rounds(
        source,
        [parameter for vae in vaes for parameter in vae.parameters()],
        images,
        labels,
        settings,
        progress=progress,
        perturbation=distort,
    )
    start = study.begin(vaes, settings)
    book = Decoded([vae.decoder for vae in vaes], study.classes)
    return Outcome(*book.table(study.latents(start.posterior)), history)


def autoencode(vaes: Sequence[VAE], pool: Images, count: int, entries: Int64[Tensor, "some"]) -> Energies:
    """What VAEs make of images of their classes, and the offsets of the latents in between, differentiably.

    Args:
        vaes: One a class.
        pool: Images, class after class.
        count: Of each class.
        entries: Which of them.
    """
    wanted, places = entries.unique(return_inverse=True)
    classes = torch.div(wanted, count, rounding_mode="floor")
    made, offsets = [], []
    for label in classes.unique().tolist():
        latents = vaes[label].encoder(pool[wanted[classes == label]]).mean
        made.append(vaes[label].decoder(latents).flatten(1))
        offsets.append(0.5 * latents.square().sum(1))
    return torch.cat(made).index_select(0, places), torch.cat(offsets).index_select(0, places)


def free_prototypes(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The prototypes of the finished codebook are learned themselves."""
    start = study.start(progress)
    book = Decoded(start.decoders(), study.classes)
    return learn_table(study, book.table(study.latents(start.posterior)), settings, progress)


def learn_table(study: Study, codebook: Energies, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The prototypes of a codebook are learned, within the box, and their offsets stay.

    Adam is the lazy one, which leaves prototypes alone that no pair of a step has.
    """
    table, offsets = codebook
    shape = table.shape
    prototypes = nn.Parameter(table.flatten(0, 1))
    make = embed(prototypes, offsets.flatten())

    def source(chosen: Int64[Tensor, "some"], generator: torch.Generator) -> Offer:
        return Offer(prototypes.detach().view(shape), offsets, make)

    def clamp() -> None:
        prototypes.detach().clamp_(0, 1)

    history = run_rounds(
        source,
        [prototypes],
        *study.trained,
        settings,
        progress=progress,
        perturbation=distort,
        optimizer=torch.optim.SparseAdam,
        after=clamp,
    )
    return Outcome(prototypes.detach().view(shape), offsets, history)


def learned_biases(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """A number for each class, added to its offsets, is learned together with the decoders."""
    start = study.start(progress)
    biases = nn.Parameter(torch.zeros(study.classes))
    book = Decoded(start.decoders(), study.classes, biases=biases)
    history = rounds(study, settings, progress, book, [start], biases=[biases])
    return Outcome(*book.table(study.latents(start.posterior)), history)


def learned_priors(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """A function of the latent for each class, added to its offsets, is learned together with the decoders.

    It stands for what −log of a prior over the class's latents is beyond that of N(0, I).
    """
    start = study.start(progress)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        priors = [make_prior(vae.decoder.latents) for vae in start.vaes]
    book = Decoded(start.decoders(), study.classes, priors=priors)
    history = rounds(study, settings, progress, book, [start])
    return Outcome(*book.table(study.latents(start.posterior)), history)


def make_prior(latents: int) -> nn.Sequential:
    """A network from latents to a number each, at first 0."""
    last = nn.Linear(PRIOR_HIDDEN, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    first, second = nn.Linear(latents, PRIOR_HIDDEN), nn.Linear(PRIOR_HIDDEN, PRIOR_HIDDEN)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)


def two_vaes(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """Two VAEs of different seeds make half of each class's prototypes each."""
    starts = [study.start(progress, seed) for seed in (0, SECOND_SEED)]
    book = Decoded(both_decoders(starts), study.classes)
    history = rounds(study, settings, progress, book, starts)
    halves = [study.latents(start.posterior, study.prototypes // 2) for start in starts]
    return Outcome(*book.table(torch.stack(halves, 1).flatten(0, 1)), history)


def pruned(study: Study, settings: CertifiedSettings, progress: Progress) -> Outcome:
    """The prototypes that are the best of their class most often are kept, out of many."""
    start = study.start(progress)
    book = Decoded(start.decoders(), study.classes)
    history = rounds(study, settings, progress, book, [start])
    latents = study.latents(start.posterior, round(CANDIDATES * study.prototypes))
    images, labels = study.trained
    generator = torch.Generator().manual_seed(settings.seed)
    task = progress.add_task("pruning", total=study.classes, note="")
    kept = []
    for label, own in enumerate(latents):
        make = partial(decode, book.decoders[label : label + 1], own[None])
        wins = count_wins(make_all(make, 1, len(own)), images[labels == label], generator)
        kept.append(own[wins.argsort(descending=True, stable=True)[: study.prototypes].sort().values])
        progress.advance(task)
    return Outcome(*book.table(torch.stack(kept)), history)


@torch.no_grad()
def count_wins(codebook: Energies, images: Images, generator: torch.Generator) -> Int64[Tensor, "prototype"]:
    """How often each prototype of one class is the best of them for bent copies of images.

    Args:
        codebook: Prototypes and offsets, of this class alone.
        images: Of the class.
        generator: Source of the copies.
    """
    prototypes, offsets = (part[0] for part in codebook)
    energies = prototypes.square().sum(1) + offsets
    wins = torch.zeros(len(prototypes), dtype=torch.int64)
    for _ in range(PRUNED_BY):
        for some in images.split(BENT_AT_ONCE):
            for few in bend(some, generator).flatten(1).split(SCORES_AT_ONCE):
                best = torch.addmm(energies, few, prototypes.T, alpha=-2).argmin(1)
                wins += best.bincount(minlength=len(prototypes))
    return wins
