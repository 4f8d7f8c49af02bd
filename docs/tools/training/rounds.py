"""Rounds of training for certificates, whatever the prototypes are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from study import Start, copy_decoders
from torch import Tensor, nn
from torch.nn import functional

from absynth.progress import Progress
from absynth.shapes import Images, Labels
from absynth.training.augmentation import BENT_AT_ONCE, Perturbation
from absynth.training.certified.distances import box_distance
from absynth.training.certified.learning import learn
from absynth.training.certified.pairs import Pairs, mine, mining_axes, nearest_in_pixels
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.certified.stage import DECODED_AT_ONCE, MINED_FOR_ONE, decode, schedule_and_average
from absynth.training.latents import draw_codebook

Energies = tuple[Float[Tensor, "some pixel"], Float[Tensor, "some"]]
Make = Callable[[Int64[Tensor, "some"]], Energies]
"""The images and offsets of entries of a codebook, differentiably."""

RAMP_TARGET, RAMP_SHARPNESS = 1.6, 5.0
"""Of :func:`learn_ramp`."""

RAMP_REACH = 3.0
"""Images count until this many times 1/β beyond the target, where the slope is a fifth of the steepest."""


class Offer(NamedTuple):
    """The codebook of a round.

    Attributes:
        prototypes: To mine among.
        offsets: Theirs.
        make: What makes entries of them again, differentiably.
    """

    prototypes: Float[Tensor, "class prototype pixel"]
    offsets: Float[Tensor, "class prototype"]
    make: Make


Source = Callable[[Int64[Tensor, "some"], torch.Generator], Offer]
"""Offers the codebook of a round, by the images that are looked at and the source of draws."""

Learning = Callable[
    [Pairs, Float[Tensor, "batch pixel"], Make, CertifiedSettings, torch.optim.Optimizer, torch.Generator],
    float,
]
"""One pass over mined pairs; the mean of their loss."""

learn_hinge: Learning = partial(learn, distance=box_distance)


@torch.no_grad()
def make_all(make: Make, classes: int, count: int) -> Energies:
    """All prototypes and offsets of a codebook, with its classes apart.

    Args:
        make: What makes some of them.
        classes: How many.
        count: Of prototypes a class.
    """
    pieces = [make(entries) for entries in torch.arange(classes * count).split(DECODED_AT_ONCE)]
    images, offsets = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return images.unflatten(0, (classes, count)), offsets.unflatten(0, (classes, count))


@dataclass(frozen=True)
class Decoded:
    """A codebook that decoders make of latents.

    Attributes:
        decoders: Those of the first class, then those of the next; as many of each.
        classes: How many.
        factor: On the offsets.
        biases: Added to the offsets of each class, less their mean.
        priors: What they make of a latent is added to its offset; one a decoder, or none.
    """

    decoders: Sequence[nn.Module]
    classes: int
    factor: float = 1.0
    biases: Float[Tensor, "class"] | None = None
    priors: Sequence[nn.Module] = ()

    def make(
        self, latents: Float[Tensor, "decoder prototype latent"], entries: Int64[Tensor, "some"]
    ) -> Energies:
        """Images and offsets of some entries, differentiably.

        Args:
            latents: Of every decoder.
            entries: Counted through all decoders.
        """
        images, offsets = decode(self.decoders, latents, entries)
        offsets = self.factor * offsets
        if self.biases is not None:
            count = latents.shape[:2].numel() // self.classes
            own = torch.div(entries, count, rounding_mode="floor")
            offsets = offsets + (self.biases - self.biases.mean())[own]
        if self.priors:
            owners = torch.div(entries, latents.shape[1], rounding_mode="floor")
            chosen = latents.flatten(0, 1)[entries]
            said = torch.cat([prior(chosen) for prior in self.priors], dim=1)
            offsets = offsets + said.gather(1, owners[:, None])[:, 0]
        return images, offsets

    def table(self, latents: Float[Tensor, "decoder prototype latent"]) -> Energies:
        """All of them, with the classes apart."""
        count = latents.shape[:2].numel() // self.classes
        return make_all(partial(self.make, latents), self.classes, count)

    def offer(self, latents: Float[Tensor, "decoder prototype latent"]) -> Offer:
        """The codebook of these latents."""
        return Offer(*self.table(latents), partial(self.make, latents))

    def drawn(self, starts: Sequence[Start], labels: Labels, compared: int) -> Source:
        """What offers latents drawn anew in every round, none of them from the images that are looked at.

        Args:
            starts: Of each of a class's decoders.
            labels: Of the images that are trained on.
            compared: Prototypes a class.
        """

        def source(chosen: Int64[Tensor, "some"], generator: torch.Generator) -> Offer:
            parts = []
            for start in starts:
                copies = len(start.posterior.mean) // len(labels)
                left_out = torch.cat([chosen + len(labels) * number for number in range(copies)])
                parts.append(
                    draw_codebook(
                        start.posterior, labels.repeat(copies), left_out, compared // len(starts), generator
                    )
                )
            return self.offer(torch.stack(parts, 1).flatten(0, 1))

        return source


def both_decoders(starts: Sequence[Start]) -> list[nn.Module]:
    """Copies of the decoders of every start, those of a class one after the other."""
    sets = [copy_decoders(start.vaes) for start in starts]
    return [decoder for members in zip(*sets, strict=True) for decoder in members]


def run_rounds(
    source: Source,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    images: Images,
    labels: Labels,
    settings: CertifiedSettings,
    *,
    progress: Progress,
    perturbation: Perturbation,
    learning: Learning = learn_hinge,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    after: Callable[[], None] = lambda: None,
) -> list[float]:
    """The rounds of :func:`~absynth.training.certified.stage.train_for_certificates`, for any codebook.

    The images are grey.

    Args:
        source: Offers the codebook of each round.
        parameters: What is learned, as the optimizer takes it.
        images: Training images.
        labels: Their classes.
        settings: How long and for what.
        progress: Where to show rounds and loss.
        perturbation: Changes the images a little.
        learning: A pass over the pairs of a round.
        optimizer: Of the parameters, given a learning rate.
        after: Called after every pass.

    Returns:
        The mean loss of every round's pairs.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    descent = optimizer(parameters, lr=settings.learning_rate)
    learned = nn.ParameterList(weights for group in descent.param_groups for weights in group["params"])
    schedule, average = schedule_and_average(learned, descent, settings)
    basis = mining_axes(images)
    history: list[float] = []
    task = progress.add_task("certificates", total=settings.rounds, note="")
    while len(history) < settings.rounds:
        chosen = torch.randint(len(images), (min(settings.images, len(images)),), generator=generator)
        changed = torch.cat([perturbation(images[rows], generator) for rows in chosen.split(BENT_AT_ONCE)])
        flat = changed.flatten(1)
        offer = source(chosen, generator)
        pairs = mine(
            settings.see(flat),
            labels[chosen],
            offer.prototypes,
            offer.offsets,
            rivals=settings.rivals * (MINED_FOR_ONE if settings.pixels_weight else 1),
            own=settings.own,
            basis=basis,
        )
        if settings.pixels_weight:
            pairs = nearest_in_pixels(
                pairs, settings.see(flat), offer.prototypes, offer.offsets, settings.rivals
            )
        history.append(learning(pairs, flat, offer.make, settings, descent, generator))
        after()
        schedule.step()
        if average is not None and settings.averages(len(history)):
            average.update_parameters(learned)
        progress.update(task, advance=1, note=f"loss {history[-1]:.4f}")
    if average is not None:
        learned.load_state_dict(average.module.state_dict())
    return history


def learn_ramp(
    pairs: Pairs,
    images: Float[Tensor, "batch pixel"],
    make: Make,
    settings: CertifiedSettings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass of :func:`~absynth.training.certified.learning.learn`, with another target.

    It is the mean of σ(β (t − h)) alone.

    Unlike the hinge it gives up pairs that are far from the target, lost ones among them; the term for the
    decision, which does not, is left out.
    """
    reach = RAMP_TARGET + RAMP_REACH / RAMP_SHARPNESS
    near = (pairs.distance < reach).nonzero()[:, 0]
    total = 0.0
    for rows in near[torch.randperm(len(near), generator=generator)].split(settings.batch_size):
        batch = images[pairs.image[rows]][:, None]
        entries = torch.stack([pairs.own[rows], pairs.rival[rows]])
        made, energy = make(entries.flatten())
        prototypes = made.view(*entries.shape, -1)
        own, rival = prototypes
        own_score, rival_score = (batch - prototypes).square().sum(-1) + energy.view_as(entries)
        distances = box_distance(batch, own, rival, rival_score - own_score)
        ramp = torch.sigmoid(RAMP_SHARPNESS * (RAMP_TARGET - distances)).mean()
        optimizer.zero_grad()
        (ramp + settings.closeness * own_score.mean()).backward()
        optimizer.step()
        total += float(ramp.detach()) * len(rows)
    return total / max(1, len(near))


def embed(prototypes: nn.Parameter, offsets: Float[Tensor, "entry"]) -> Make:
    """What picks entries of a table that is learned itself, so that only they have a derivative.

    Args:
        prototypes: Shape (entry, pixel).
        offsets: Fixed.
    """

    def make(entries: Int64[Tensor, "some"]) -> Energies:
        return functional.embedding(entries, prototypes, sparse=True), offsets[entries]

    return make
