"""The front door: certify a model's decisions on a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from absynth.certify.arguments import check_images, check_labels
from absynth.certify.codebook import Codebook, find_prototypes, read_codebook
from absynth.certify.exact import Solver
from absynth.certify.front import GREY, Front
from absynth.certify.growth import LEVELS, diameter, growth_within, reach
from absynth.certify.halfspace import whole
from absynth.certify.paper import WARNING, paper_certificate
from absynth.certify.search import Batch, Search, exact_scores, lengths_from, scan
from absynth.errors import AbsynthError
from absynth.memory import at_once
from absynth.norms import Norm, parse_norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

GAP = 1e-3
"""A gap of at most this, or of this share of a radius above 1, counts as closed."""

STRICTLY = 1 - 2.0**-40
"""Turns the distance of the nearest point that might be decided otherwise into a ball that leaves it out."""

BATCH_SIZE = 64
"""Images compared with all prototypes together, unless the memory holds fewer."""

BYTES_A_COMPARISON = 32
"""Of memory for each image and prototype: scores, lengths, margins, bounds and what is computed from them."""

SOLVED_WITHIN = 1.1
"""How much larger than the first bound the exact radius may be without being cut."""

GREY_RULE = "argmin over c of min over k of |x - p_ck|^2 + w_ck, as the model computes it in float32"
"""The decision rule of a classifier by prototypes."""

BINARY_RULE = f"{GREY_RULE}, with every pixel of x above 1/2 set to 1 and every other to 0 first"
"""The same behind the threshold."""

CLAMPED_RULE = GREY_RULE + ", with every pixel of x moved into [{low:g}, {high:g}] first"
"""The same behind a clamp."""

LATENT_RULE = "argmin over c of min over z of |x - G_c(z)|^2 + |z|^2 / 2, the minimum over all z"
"""The decision rule that the paper's estimate is about."""

BOUND_ONLY = (
    "The exact radius is a combinatorial problem in L0, for binary input and behind a clamp; this is the "
    "proven lower bound."
)
"""The warning where an exact radius was asked for in vain."""


@dataclass(frozen=True)
class Certificate:
    """What is proven of a model's decisions: lower bounds on their robustness.

    For every image i and every x' in [0, 1] with ‖x' − image_i‖ ≤ ``radius[i]``, the closed ball, the
    decision of the model's own float32 forward pass is ``prediction[i]``, which is the label. For L0 the
    radius is a number of pixels: no change of that many or fewer changes the decision. Nothing is claimed
    beyond the radius, and nothing at all where it is 0: there the prediction is not the label, or the margin
    is too small to be told from a tie. No radius exceeds the diameter of the box, as no two images are
    further apart.

    Attributes:
        norm: Which norm the radius is measured in.
        radius: The proven radius of each image, rounded down.
        prediction: The model's decision for each image.
        method: ``"pairwise"``, ``"polytope"`` (exact) or ``"paper"`` (an estimate, see ``warning``).
        exact: Whether the radius was matched with adversarials, up to ``gap``.
        rule: The decision rule that the certificate is for.
        warning: What to know before trusting it, if anything.
        gap: Distance of the nearest adversarial found minus the radius, where exact; infinite if none was
            found though one is not excluded, 0 where none exists and where the image is misclassified.
        adversarials: These adversarials, float32, where exact; the image itself where it is misclassified,
            NaN where none was found.
        closed: Whether each gap is at most 1e-3, or 1e-3 of a radius above 1, where exact.
    """

    norm: Norm
    radius: Float[Tensor, "batch"]
    prediction: Int64[Tensor, "batch"]
    method: str
    exact: bool
    rule: str
    warning: str | None = None
    gap: Float[Tensor, "batch"] | None = None
    adversarials: Images | None = None
    closed: Bool[Tensor, "batch"] | None = None


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


class _Found(NamedTuple):
    """The results for some images, or for all of them."""

    radius: Tensor
    gap: Tensor
    adversarials: Tensor


@overload
def is_closed(gap: Tensor, radius: Tensor) -> Tensor: ...
@overload
def is_closed(gap: float, radius: float) -> bool: ...
def is_closed(gap: Tensor | float, radius: Tensor | float) -> Tensor | bool:
    """Whether a gap is at most 1e-3, or 1e-3 of a radius above 1."""
    return (gap <= GAP) | (gap <= GAP * radius)


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str = "l2",
    exact: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Certificate:
    """Proves how far each image can be changed without changing the model's decision.

    Works for classifiers by prototypes (codebook ABS, nearest neighbour), alone or behind the threshold at ½.
    For a model that infers latents (continuous ABS) it gives the paper's L2 estimate, which is no proof.

    Args:
        model: The classifier.
        images: Shape (batch, channel, height, width), float32 in [0, 1].
        labels: The true classes, int64 of shape (batch,).
        norm: ``"l2"``, ``"l1"``, ``"linf"`` or ``"l0"``.
        exact: Also find the smallest adversarials, which shows how tight the radii are. For L0, and behind
            the threshold, that is a combinatorial problem: the answer is then the bound, with a warning and
            ``exact=False``.
        batch_size: Images certified together, if the memory holds so many (:mod:`absynth.memory`).
        progress: Display to report to.

    Raises:
        AbsynthError: If the model cannot be certified, or the arguments are wrong.
    """
    parse_norm(norm)
    check_images(images, labels)
    return Certifier(model).certify(images, labels, norm, exact, batch_size, progress)


class Certifier:
    """Certifies the decisions of one model again and again, and reads and checks its prototypes only once.

    That is most of the time that a single image takes. Where the same images are asked about again, in
    another norm, they are not compared with the prototypes again. The model must stay as it is meanwhile.

    Args:
        model: As :func:`certify` takes it.

    Raises:
        AbsynthError: If the model's prototypes cannot be certified.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        found = find_prototypes(model)
        self.codebook = None if found is None else read_codebook(*found)
        self._looked_at: _LookedAt | None = None

    def certify(
        self,
        images: Tensor,
        labels: Tensor,
        norm: str = "l2",
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> Certificate:
        """What :func:`certify` returns, which has the arguments in full.

        Raises:
            AbsynthError: If the arguments are wrong.
        """
        return self.certify_in(images, labels, (norm,), exact, batch_size, progress)[0]

    @torch.no_grad()
    def certify_in(
        self,
        images: Tensor,
        labels: Tensor,
        norms: Sequence[str],
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """The certificates of the same images in several norms, each as :func:`certify` gives it.

        The images are compared with the prototypes once for all of them.

        Raises:
            AbsynthError: If the arguments are wrong.
        """
        model, codebook, chosen = self.model, self.codebook, [parse_norm(norm) for norm in norms]
        check_images(images, labels)
        if codebook is None:
            return [_estimate(model, images, labels, norm, batch_size) for norm in chosen]
        if images[0].numel() != codebook.pixels:
            raise AbsynthError(
                f"The images have {images[0].numel()} pixels each; the model's have {codebook.pixels}."
            )
        check_labels(labels, codebook.classes)
        device = codebook.images.device
        flat = images.to(device).flatten(1)
        batch_size = at_once(BYTES_A_COMPARISON * len(codebook.images), batch_size)
        looked_at = self._look_at(flat, images.shape[1:], batch_size)
        prediction = looked_at.prediction

        def predict(candidates: Float[Tensor, "batch pixel"]) -> Int64[Tensor, "batch"]:
            result: Tensor = model(candidates.unflatten(1, images.shape[1:])).argmax(dim=1)
            return result

        zero = torch.zeros(len(images), dtype=torch.float64, device=device)
        found = [_Found(zero.clone(), zero.clone(), flat.clone()) for _ in chosen]
        correct = prediction == labels.to(device)
        shown = progress or Progress(disable=True)
        tasks = [shown.add_task(f"certify {norm}", total=len(images), note="") for norm in chosen]
        for task in tasks:
            shown.advance(task, int((~correct).sum()))
        for label in range(codebook.classes):
            searches = [Search(codebook, label, norm, images.shape[1]) for norm in chosen]
            solvers = [
                Solver(search, predict) if _solvable(codebook, search.norm, exact) else None
                for search in searches
            ]
            rows = (correct & (prediction == label)).nonzero()[:, 0]
            for some in rows.split(batch_size) if len(rows) else ():
                for number, (search, solver) in enumerate(zip(searches, solvers, strict=True)):
                    result = _certify_class(search, solver, looked_at.batch(search, some))
                    for values, new in zip(found[number], result, strict=True):
                        values[some] = new
                    shown.advance(tasks[number], len(some))
        return [
            _finish(norm, codebook, prediction, one, exact, images)
            for norm, one in zip(chosen, found, strict=True)
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


def _solvable(codebook: Codebook, norm: Norm, exact: bool) -> bool:
    """Whether the exact radius is asked for and is no combinatorial problem."""
    return exact and codebook.front == GREY and norm != "l0"


def _rule(front: Front) -> str:
    """The decision rule of a classifier by prototypes with something in front."""
    if front.binary:
        return BINARY_RULE
    return CLAMPED_RULE.format(low=front.low, high=front.high) if front.clamps else GREY_RULE


def _finish(
    norm: Norm,
    codebook: Codebook,
    prediction: Int64[Tensor, "batch"],
    found: _Found,
    exact: bool,
    images: Images,
) -> Certificate:
    """The certificate of what was found, where the images are."""
    solvable, home = _solvable(codebook, norm, exact), images.device
    radius, gap, adversarials = found
    return Certificate(
        norm,
        radius.to(home),
        prediction.to(home),
        "polytope" if solvable else "pairwise",
        solvable,
        _rule(codebook.front),
        BOUND_ONLY if exact and not solvable else None,
        gap.to(home) if solvable else None,
        adversarials.view_as(images).to(home) if solvable else None,
        is_closed(gap, radius).to(home) if solvable else None,
    )


def _estimate(model: nn.Module, images: Images, labels: Labels, norm: Norm, batch_size: int) -> Certificate:
    """The paper's estimate.

    Raises:
        AbsynthError: If the model does not infer, or the norm is another than L2.
    """
    if not hasattr(model, "infer"):
        raise AbsynthError(
            f"A {type(model).__name__} cannot be certified; models that can are classifiers by prototypes "
            "(codebook-abs, nearest-neighbour, their binary forms), and abs has the paper's L2 estimate."
        )
    if norm != "l2":
        raise AbsynthError(
            f"The paper's estimate for continuous ABS is for l2, not {norm}; certify codebook-abs."
        )
    parts = [
        paper_certificate(model, some, some_labels)
        for some, some_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]
    radius, prediction = (torch.cat(part) for part in zip(*parts, strict=True))
    return Certificate(
        norm,
        radius,
        prediction,
        "paper",
        False,
        LATENT_RULE,
        WARNING,
    )


def _certify_class(search: Search, solver: Solver | None, batch: Batch) -> _Found:
    """Radii, gaps and adversarials of images that the model gives the search's class."""
    codebook, images = search.codebook, batch.image
    own_score = exact_scores(codebook, batch.seen, batch.own_rows[:, :1])[:, 0]
    radius = _bound(search, batch, own_score)
    gap, adversarials = torch.zeros_like(radius), images.clone()
    if solver is None:
        return _Found(radius, gap, adversarials)
    own = codebook.images[batch.own_rows[:, 0]].double()
    largest = diameter(search.norm, codebook.pixels, search.channels)
    within = (SOLVED_WITHIN * radius + 0.01).clamp(max=largest)
    slack = codebook.slack(own_score + growth_within(images.double(), own, within, search.norm))
    for row in range(len(images)):
        this = torch.tensor([row], device=images.device)
        solution = solver.solve(batch.select(this), slack[this], float(radius[row]))
        radius[row] = max(float(radius[row]), min(solution.radius * STRICTLY, float(within[row])))
        missing = torch.full_like(images[row], torch.nan)
        adversarials[row] = missing if solution.adversarial is None else solution.adversarial
        gap[row] = 0 if solution.radius == torch.inf else solution.distance - radius[row]
    return _Found(radius, gap, adversarials)


def _bound(search: Search, batch: Batch, own_score: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The pairwise radius, with no more slack for rounding than a ball of its size needs."""
    codebook, norm = search.codebook, search.norm
    pixels, channels = codebook.pixels, search.channels
    radius = torch.zeros_like(own_score)
    pending = torch.arange(len(radius), device=radius.device)
    for growth in (*(level for level in LEVELS if level < pixels), float(pixels)):
        image = batch.image.double()
        slack = codebook.slack(own_score[pending] + growth)
        distance = whole(search.run(batch, slack), image, norm, codebook.front)
        bound = (distance - 1).clamp(min=0) if norm == "l0" else distance * STRICTLY
        own = codebook.images[batch.own_rows[:, 0]].double()
        limit = reach(image, own, growth, norm, codebook.front, channels)
        largest = torch.maximum(radius[pending], bound.minimum(limit))
        radius[pending] = largest.clamp(max=diameter(norm, pixels, channels))
        cut = (bound > limit).nonzero()[:, 0]
        if len(cut) == 0:
            break
        pending, batch = pending[cut], batch.select(cut)
    return radius
