"""Proofs for networks: bounds of everything that they compute within a ball, and Lipschitz constants."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from absynth.certify.bounds.ball import Ball
from absynth.certify.bounds.lipschitz import pair_constants
from absynth.certify.bounds.nodes import Network
from absynth.certify.bounds.propagation import Propagation, margins, propagate
from absynth.certify.bounds.reading import check_operations, read_network
from absynth.certify.bounds.search import count_up, follow, halve
from absynth.certify.bounds.slopes import optimised_margins
from absynth.certify.certificate import Certificate
from absynth.certify.front import Front, Threshold, split_front
from absynth.certify.prover import Scope
from absynth.errors import AbsynthError
from absynth.inputs import check_classes
from absynth.models.asked import Asked, answer
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

RULE = (
    "argmax of the network's logits in real arithmetic, with the weights as they are stored; the forward "
    "pass in floating point may decide otherwise where two logits are equal up to its rounding"
)
"""The decision rule of a network's certificate; what stands in front adds its own."""

IMAGES_AT_ONCE = 8
"""Images whose balls are bounded together."""

PIECE = 20
"""Images after which a long run keeps what it has."""

RIVALS_TRIED = 3
"""Rivals whose gradient says with which size to begin."""

SHARES: dict[Norm, float] = {"linf": 0.3, "l2": 0.12, "l1": 0.06}
"""Of the size at which the margin would be 0 if it went on as it begins: where to begin."""

DOWNWARDS = 1 - 1e-9
"""Makes up for the rounding of a quotient."""


@dataclass(frozen=True)
class Bounds:
    """What the methods share that bound a network's logits within a ball.

    Attributes:
        straight: Whether what the network computes is bounded by lines, and not by intervals alone.
        tolerance: How far a radius may be, relatively, below the largest that the bounds can prove.
        largest: Layers of more numbers than this are bounded by intervals, which is fast and much worse.

    Raises:
        AbsynthError: If one of them is out of range.
    """

    name: ClassVar[str]
    automatic: ClassVar[bool] = False
    straight: ClassVar[bool] = True
    tolerance: float = 0.01
    largest: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise AbsynthError(f"The tolerance is {self.tolerance}; it must lie between 0 and 1.")
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                value = getattr(self, field.name)
                raise AbsynthError(f"The setting '{field.name}' is {value}; it must be at least 0.")

    def scope(self, model: nn.Module) -> Scope | None:
        """Every norm, for a network of known operations."""
        return None if self.why_not(model) else Scope(at_once=PIECE)

    def why_not(self, model: nn.Module) -> str:
        """Names what cannot be bounded."""
        try:
            check_operations(_split(model)[0])
        except AbsynthError as error:
            return str(error)
        return ""

    def prover(self, model: nn.Module) -> BoundsProver:
        """The method made ready for a model."""
        return BoundsProver(model, self)

    def least_margins(self, found: Propagation, labels: Labels, end: float) -> Tensor:
        """Lower bounds of the label's logit minus every other one, shape (batch, class − 1).

        Args:
            found: What is known of the balls.
            labels: Shape (batch,).
            end: When to stop improving them, in seconds of the clock that only goes forward.
        """
        raise NotImplementedError

    @property
    def seconds_an_image(self) -> float:
        """How long an image's bounds may be improved."""
        return 0.0


@dataclass(frozen=True)
class Interval(Bounds):
    """Interval bounds (Gowal et al. 2018): fast, and good for networks that were trained for them."""

    name: ClassVar[str] = "interval"
    straight: ClassVar[bool] = False

    def least_margins(self, found: Propagation, labels: Labels, end: float) -> Tensor:
        """Those of the intervals."""
        return margins(found, labels, straight=False)


@dataclass(frozen=True)
class Crown(Bounds):
    """Linear bounds (Zhang et al. 2018)."""

    name: ClassVar[str] = "crown"
    automatic: ClassVar[bool] = True

    def least_margins(self, found: Propagation, labels: Labels, end: float) -> Tensor:
        """Those of the lines, or of the intervals where they are better."""
        # what overflows is no number, and no bound
        return margins(found, labels, straight=False).fmax(margins(found, labels, straight=True))


@dataclass(frozen=True)
class AlphaCrown(Bounds):
    """Linear bounds with lines that are optimised for each image and rival (Xu et al. 2021).

    Attributes:
        steps: For every size of a ball that is tried.
        seconds: An image, after which it goes on as CROWN. Where it ends a search, the radius depends on how
            fast the machine is.
    """

    name: ClassVar[str] = "alpha-crown"
    steps: int = 20
    seconds: float = 10.0

    @property
    def seconds_an_image(self) -> float:
        """The setting."""
        return self.seconds

    def least_margins(self, found: Propagation, labels: Labels, end: float) -> Tensor:
        """Those of the best lines found."""
        better = optimised_margins(found, labels, steps=self.steps, until=end)
        return margins(found, labels, straight=False).fmax(better)


@dataclass(frozen=True)
class Lipschitz:
    """The margin of the logits over the network's Lipschitz constant, in L2: at once, and small."""

    name: ClassVar[str] = "lipschitz"
    automatic: ClassVar[bool] = False

    def scope(self, model: nn.Module) -> Scope | None:
        """L2, for a network of known operations that does not jump."""
        return None if self.why_not(model) else Scope(norms=("l2",))

    def why_not(self, model: nn.Module) -> str:
        """Names what has no constant."""
        if isinstance(_split(model)[1], Threshold):
            return "A network behind a threshold has no Lipschitz constant; choose the method 'crown'."
        return Crown().why_not(model)

    def prover(self, model: nn.Module) -> NetworkProver:
        """The method made ready for a model."""
        return LipschitzProver(model)


class NetworkProver:
    """What both methods for networks share: reading the model, and going through the images.

    Args:
        model: Of known operations.
    """

    method: str

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._networks: dict[tuple[int, ...], Network] = {}
        self._constants: dict[tuple[int, ...], Tensor] = {}

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
        """The certificates; there are no exact ones.

        Raises:
            AbsynthError: If the model does not take the images, its logits are NaN or infinite, a label is
                no class of it, it has an operation that cannot be bounded, or the method lacks a norm.
        """
        home, device = images.device, _device(self.model)
        logits = torch.cat([answer(self.model, part.to(device)) for part in images.split(batch_size)])
        if not logits.isfinite().all():
            raise AbsynthError(
                "The model's logits for these images are NaN or infinite, which decides nothing; mend its "
                "weights."
            )
        check_classes(labels, logits.shape[1])
        prediction = logits.argmax(1).to(home)
        shape = tuple(images.shape[1:])
        network, front = self._read(shape, device)
        with torch.no_grad():
            proven = [
                self._radii(
                    network, front, images.to(device), labels.to(device), prediction == labels, norm, progress
                )
                for norm in norms
            ]
        return [
            Certificate(norm, radius.to(home), prediction, self.method, False, RULE + front.rule)
            for norm, radius in zip(norms, proven, strict=True)
        ]

    def _read(self, shape: tuple[int, ...], device: torch.device) -> tuple[Network, Front]:
        """The network for images of a shape, and what stands in front of it."""
        inner, front = _split(self.model)
        if shape not in self._networks:
            self._networks[shape] = read_network(inner, shape, device)
        return self._networks[shape], front

    def _radii(
        self,
        network: Network,
        front: Front,
        images: Images,
        labels: Labels,
        right: Tensor,
        norm: Norm,
        progress: Progress | None,
    ) -> Tensor:
        """The radii of images in one norm."""
        shown = progress or Progress(disable=True)
        task = shown.add_task(f"certify {norm}", total=len(images), note="")
        radius = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        rows = right.to(images.device).nonzero()[:, 0]
        shown.advance(task, len(images) - len(rows))
        for some in rows.split(IMAGES_AT_ONCE) if len(rows) else ():
            chosen, own = images[some].double(), labels[some]
            nothing = torch.zeros(len(some), dtype=torch.float64, device=images.device)
            at_image = Ball(chosen, front, norm, nothing)
            margin = margins(propagate(network, at_image, straight=False, largest=0), own, straight=False)
            # a margin that is not above its own rounding is a tie
            sure = (margin > 0).all(1).nonzero()[:, 0]
            if len(sure):
                balls = at_image.rows(sure)
                radius[some[sure]] = self._grow(network, balls, own[sure], margin[sure])
            shown.advance(task, len(some))
        return radius

    def _grow(self, network: Network, balls: Ball, labels: Labels, margin: Tensor) -> Tensor:
        """The radii of images that are decided rightly.

        Args:
            network: The network.
            balls: Of size 0.
            labels: Of the images.
            margin: Of the label over every rival, in real arithmetic.
        """
        raise NotImplementedError

    def _by_constants(self, network: Network, balls: Ball, labels: Labels, margin: Tensor) -> Tensor:
        """The radii that follow from Lipschitz constants; 0 where there is none."""
        if isinstance(balls.front, Threshold):
            return torch.zeros_like(margin[:, 0])
        key = tuple(balls.image.shape[1:])
        if key not in self._constants:
            self._constants[key] = pair_constants(network)
        bound = (margin / self._constants[key][labels]).amin(1) * DOWNWARDS
        return bound.clamp(max=_diameter(balls))


class LipschitzProver(NetworkProver):
    """The margin over the Lipschitz constant, in L2."""

    method = "lipschitz"

    def _grow(self, network: Network, balls: Ball, labels: Labels, margin: Tensor) -> Tensor:
        """The quotient.

        Raises:
            AbsynthError: If the norm is another than L2.
        """
        if balls.norm != "l2":
            raise AbsynthError(
                f"The method 'lipschitz' is for l2, not {balls.norm}; choose the method 'crown'."
            )
        return self._by_constants(network, balls, labels, margin)


class BoundsProver(NetworkProver):
    """Bounds within balls of several sizes.

    Args:
        model: Of known operations.
        settings: Of the method.
    """

    def __init__(self, model: nn.Module, settings: Bounds) -> None:
        super().__init__(model)
        self.settings = settings
        self.method = settings.name

    def _grow(self, network: Network, balls: Ball, labels: Labels, margin: Tensor) -> Tensor:
        """The largest size that is proven, near enough."""
        settings, most = self.settings, _diameter(balls)
        least = self._least_margins(network, balls, labels, settings)
        if balls.norm == "l0":
            return count_up(lambda rows, sizes: least(rows, sizes) > 0, len(labels), int(most), margin)
        guess = first_guess(network, balls, labels, most)
        every = torch.arange(len(labels), device=labels.device)
        by_intervals = self._least_margins(network, balls, labels, Interval())
        known = halve(lambda sizes: by_intervals(every, sizes) > 0, guess, most, settings.tolerance)
        if balls.norm == "l2":
            known = known.maximum(self._by_constants(network, balls, labels, margin))
        if not settings.straight:
            return known
        return follow(least, margin.amin(1), guess, known, most, settings.tolerance)

    def _least_margins(
        self, network: Network, balls: Ball, labels: Labels, settings: Bounds
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """From rows and sizes to the least margins that a method proves within these balls."""
        end = time.monotonic() + settings.seconds_an_image * len(labels)

        def least(rows: Tensor, sizes: Tensor) -> Tensor:
            ball, own = Ball(balls.image[rows], balls.front, balls.norm, sizes), labels[rows]
            found = propagate(network, ball, straight=settings.straight, largest=settings.largest)
            return settings.least_margins(found, own, end).amin(1)

        return least


def first_guess(network: Network, balls: Ball, labels: Labels, most: float) -> Tensor:
    """Sizes to begin with: a part of where the margins would end if they fell on as they do at the image.

    Args:
        network: The network.
        balls: Of size 0.
        labels: Of the images.
        most: The largest size.
    """
    with torch.enable_grad():
        image = balls.center.detach().requires_grad_()
        logits = network.forward(image)
        own = logits.gather(1, labels[:, None])
        margin = own - logits.scatter(1, labels[:, None], -torch.inf)
        nearest = margin.topk(min(RIVALS_TRIED, logits.shape[1] - 1), largest=False).values
        slopes = [
            torch.autograd.grad(column.sum(), image, retain_graph=True)[0].flatten(1)
            for column in nearest.unbind(1)
        ]
    order = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[balls.norm]
    steep = torch.stack([torch.linalg.vector_norm(slope, ord=order, dim=1) for slope in slopes], 1)
    reached = (nearest.detach() / steep).nan_to_num(most, most, most).amin(1)
    return (reached * SHARES[balls.norm]).clamp(min=1e-9 * most, max=most)


def _split(model: nn.Module) -> tuple[nn.Module, Front]:
    """The network behind what stands in front, and what that comes to."""
    while isinstance(model, Asked):
        model = model.model
    return split_front(model)


def _diameter(balls: Ball) -> float:
    """No two images are further apart."""
    values, pixels = float(balls.image[0].numel()), float(balls.image[0, 0].numel())
    return {"linf": 1.0, "l2": math.sqrt(values), "l1": values, "l0": pixels}[balls.norm]


def _device(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next((one.device for one in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
