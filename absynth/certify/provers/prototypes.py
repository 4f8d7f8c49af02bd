"""Proofs for classifiers by prototypes: the pairwise bound, and on demand the exact radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from absynth.certify.certificate import Certificate, is_closed
from absynth.certify.codebook import find_prototypes, read_codebook
from absynth.certify.exact import Solver
from absynth.certify.front import Clamp, Front, Grey, Threshold
from absynth.certify.prover import Scope
from absynth.certify.radii import Radii, find_radii
from absynth.certify.scan import Batch, lengths_from, scan
from absynth.certify.search import Search
from absynth.errors import AbsynthError
from absynth.inputs import check_classes
from absynth.memory import at_once
from absynth.norms import NORMS, Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

BYTES_A_COMPARISON = 32
"""Of memory for each image and prototype: scores, lengths, margins, bounds and what is computed from them."""

RULE = "argmin over c of min over k of |x - p_ck|^2 + w_ck, as the model computes it in float32"
"""The decision rule of a classifier by prototypes; what stands in front adds its own."""

BOUND_ONLY = (
    "In L0 the exact search is for binary images of one channel alone; this is the proven lower bound."
)
"""The warning where an exact radius was asked for in vain."""


@dataclass(frozen=True)
class _LookedAt:
    """Images, and what holds for them whatever the norm.

    Attributes:
        images: Flat.
        prediction: The model's decisions.
        keep: Whether there are few enough images to keep all that is compared; else the last of it is kept.
        batches: By class and rows.
    """

    images: Float[Tensor, "batch pixel"]
    prediction: Int64[Tensor, "batch"]
    keep: bool
    batches: dict[tuple[int, ...], Batch] = field(default_factory=dict)

    def batch(self, search: Search, rows: Int64[Tensor, "some"]) -> Batch:
        """Some images of the search's class, compared with its prototypes as far as its norm needs."""
        key = (search.label, *rows.tolist())
        batch = self.batches.get(key)
        if batch is None:
            if not self.keep:
                # Before the next is made, so that there is never memory for both.
                self.batches.clear()
            batch = scan(search.codebook, self.images[rows], search.label)
        if search.by_length and batch.length is None:
            batch = replace(batch, length=lengths_from(search.codebook, batch.own_rows[:, 0]))
        self.batches[key] = batch
        return batch


def exact_norms(front: Front) -> tuple[Norm, ...]:
    """The norms in which exact radii can be asked for behind a front."""
    match front:
        case Grey() | Clamp():
            return ("l2", "l1", "linf")
        case Threshold():
            return NORMS


@dataclass(frozen=True)
class Pairs:
    """The pairwise bound, and on demand the exact radius, for classifiers by prototypes.

    Attributes:
        seconds: For an exact radius, an image and norm. What is proven by then is the radius, which depends
            on how fast the machine is where the time ends a search.

    Raises:
        AbsynthError: If the time is not positive.
    """

    name: ClassVar[str] = "pairs"
    automatic: ClassVar[bool] = True
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise AbsynthError(f"The setting 'seconds' is {self.seconds}; it must be larger than 0.")

    def scope(self, model: nn.Module) -> Scope | None:
        """Every norm for a classifier by prototypes, whatever stands in front."""
        found = find_prototypes(model)
        return None if found is None else Scope(exact=exact_norms(found[1]))

    def prover(self, model: nn.Module) -> PrototypeProver:
        """The method made ready for a model.

        Raises:
            AbsynthError: If the model's prototypes cannot be certified.
        """
        return PrototypeProver(model, self.seconds)


class PrototypeProver:
    """Certifies one model again and again, and reads and checks its prototypes only once.

    Where the same images are asked about again, in another norm, they are not compared with the prototypes
    again.

    Args:
        model: A classifier by prototypes, perhaps with something in front.
        seconds: See :class:`Pairs`.

    Raises:
        AbsynthError: If the model's prototypes cannot be certified.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, seconds: float) -> None:
        found = find_prototypes(model)
        assert found is not None, "The model has no scope."
        self.model = model
        self.seconds = seconds
        self.codebook = read_codebook(*found)
        self._looked_at: _LookedAt | None = None

    @torch.no_grad()
    def prove(
        self,
        images: Images,
        labels: Labels,
        norms: Sequence[Norm],
        *,
        exact: bool,
        batch_size: int,
        progress: Progress | None,
    ) -> list[Certificate]:
        """The certificates; the images are compared with the prototypes once for all norms.

        Raises:
            AbsynthError: If the images have other pixels than the prototypes, or a label is no class.
        """
        model, codebook = self.model, self.codebook
        if images[0].numel() != codebook.pixels:
            raise AbsynthError(
                f"The images have {images[0].numel()} pixels each; the model's have {codebook.pixels}."
            )
        check_classes(labels, codebook.classes)
        device = codebook.images.device
        flat = images.to(device).flatten(1)
        batch_size = at_once(BYTES_A_COMPARISON * len(codebook.images), batch_size)
        looked_at = self._look_at(flat, images.shape[1:], batch_size)
        prediction = looked_at.prediction

        def predict(candidates: Float[Tensor, "batch pixel"]) -> Int64[Tensor, "batch"]:
            result: Tensor = model(candidates.unflatten(1, images.shape[1:])).argmax(dim=1)
            return result

        zero = torch.zeros(len(images), dtype=torch.float64, device=device)
        exactly = exact_norms(codebook.front) if exact else ()
        if images.shape[1] > 1:
            # A pixel counts once whatever its channels, which the search by flips knows nothing of.
            exactly = tuple(norm for norm in exactly if norm != "l0")
        found = [Radii(zero.clone(), zero.clone(), flat.clone()) for _ in norms]
        correct = prediction == labels.to(device)
        shown = progress or Progress(disable=True)
        tasks = [shown.add_task(f"certify {norm}", total=len(images), note="") for norm in norms]
        for task in tasks:
            shown.advance(task, int((~correct).sum()))
        for label in range(codebook.classes):
            searches = [Search(codebook, label, norm, images.shape[1]) for norm in norms]
            solvers = [
                Solver(search, predict, self.seconds) if search.norm in exactly else None
                for search in searches
            ]
            rows = (correct & (prediction == label)).nonzero()[:, 0]
            for some in rows.split(batch_size) if len(rows) else ():
                for number, (search, solver) in enumerate(zip(searches, solvers, strict=True)):
                    result = find_radii(search, solver, looked_at.batch(search, some))
                    for values, new in zip(found[number], result, strict=True):
                        values[some] = new
                    shown.advance(tasks[number], len(some))
        return [
            _finish(norm, codebook.front, prediction, one, images, norm in exactly, exact)
            for norm, one in zip(norms, found, strict=True)
        ]

    def _look_at(self, flat: Float[Tensor, "batch pixel"], shape: torch.Size, batch_size: int) -> _LookedAt:
        """What is known of some images already, or the start of it."""
        known = self._looked_at
        if known is not None and torch.equal(known.images, flat):
            return known
        # What is known before is let go of first, so that there is never memory for both.
        self._looked_at = None
        parts = flat.unflatten(1, shape).split(batch_size)
        prediction = torch.cat([self.model(part).argmax(dim=1) for part in parts])
        if len(parts) > 1:
            return _LookedAt(flat, prediction, keep=False)
        self._looked_at = _LookedAt(flat.clone(), prediction, keep=True)
        return self._looked_at


def _finish(
    norm: Norm,
    front: Front,
    prediction: Int64[Tensor, "batch"],
    found: Radii,
    images: Images,
    solved: bool,
    exact: bool,
) -> Certificate:
    """The certificate of what was found, where the images are.

    Args:
        norm: Which norm.
        front: What stands in front.
        prediction: The model's decisions.
        found: What was found.
        images: As they were given.
        solved: Whether that is exact.
        exact: Whether it should have been.
    """
    home = images.device
    radius, gap, adversarials = found
    return Certificate(
        norm,
        radius.to(home),
        prediction.to(home),
        "polytope" if solved else "pairwise",
        solved,
        RULE + front.rule,
        BOUND_ONLY if exact and not solved else None,
        gap.to(home) if solved else None,
        adversarials.view_as(images).to(home) if solved else None,
        is_closed(gap, radius, norm).to(home) if solved else None,
    )
