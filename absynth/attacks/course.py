"""How the closest adversarial of each image came nearer while an attack went on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from absynth.attacks.batch import Counts, Scalars
from absynth.errors import AbsynthError
from absynth.norms import Norm, distance
from absynth.shapes import Images


@dataclass(frozen=True)
class Course:
    """The steps of a search, each an adversarial that is closer than all before it.

    What an attack asks a model beside its logits is not seen, as in a search by geometry; such an attack
    makes its steps at its end. All tensors are on the CPU.

    Attributes:
        rows: Which image each step is of.
        passes: Forward and backward passes that the image had taken by then, its own included, and without
            the look at the clean image, as in a budget; ascending for an image.
        distances: From the clean image, falling for an image.

    >>> course = Course(torch.tensor([0, 0, 1]), torch.tensor([3, 8, 5]), torch.tensor([2.0, 1.0, 4.0]))
    >>> course.after(5, images=2), course.after(9, images=3)
    (tensor([2., 4.]), tensor([1., 4., inf]))
    """

    rows: Int64[Tensor, "step"]
    passes: Int64[Tensor, "step"]
    distances: Float[Tensor, "step"]

    def after(self, passes: int, images: int) -> Float[Tensor, "image"]:
        """The distance that each image had come to, infinite where nothing was found by then.

        Args:
            passes: Forward and backward passes, together.
            images: How many there are.

        Raises:
            AbsynthError: If there are more.
        """
        if images < 1 or (len(self.rows) and int(self.rows.max()) >= images):
            raise AbsynthError(f"{images} images were named; the course is of more.")
        early = self.passes <= passes
        found = self.distances.new_full((images,), torch.inf)
        return found.scatter_reduce(0, self.rows[early], self.distances[early], "amin")

    def of(self, rows: Sequence[int]) -> Course:
        """The same for some of the images, numbered anew.

        Args:
            rows: Which of them, in their new order.
        """
        place = {row: number for number, row in enumerate(rows)}
        kept = [step for step, row in enumerate(self.rows.tolist()) if row in place]
        renumbered = [place[row] for row in self.rows[kept].tolist()]
        return Course(torch.tensor(renumbered, dtype=torch.int64), self.passes[kept], self.distances[kept])

    def ending(self, distances: Scalars, passes: Counts) -> Course:
        """The same where it is settled what the search ended with.

        A step to less than that did not hold when the model was asked once more; it counts as a step to the
        distance that held. Of an image with none, no steps are left.

        Args:
            distances: Of what holds; infinite where nothing does.
            passes: That each image took.
        """
        ends = distances.cpu().to(self.distances.dtype)
        rows = torch.cat([self.rows, torch.arange(len(ends), device="cpu")])
        taken = torch.cat([self.passes, passes.cpu()])
        sizes = torch.cat([self.distances.maximum(ends[self.rows]), ends])
        nearest: dict[int, float] = {}
        kept = []
        steps = zip(rows.tolist(), taken.tolist(), sizes.tolist(), range(len(rows)), strict=True)
        for row, _, size, step in sorted(steps):
            if size < nearest.get(row, torch.inf):
                nearest[row] = size
                kept.append(step)
        return Course(rows[kept], taken[kept], sizes[kept])


@dataclass
class Recorder:
    """Writes down the steps of a search.

    Attributes:
        images: The clean images.
        norm: Of the distances.
        before: Passes that each image took before the search.
    """

    images: Images
    norm: Norm
    before: Counts
    _nearest: Tensor = field(init=False)
    _steps: list[tuple[Tensor, Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        """Begins with nothing found."""
        self.restart()

    def restart(self) -> None:
        """Forgets all, as where a search begins once more."""
        self._steps = []
        self._nearest = torch.full((len(self.images),), torch.inf, dtype=torch.float64, device="cpu")

    @torch.no_grad()
    def note(
        self,
        rows: Int64[Tensor, "point"],
        points: Float[Tensor, "point channel height width"],
        found: Bool[Tensor, "point"],
        passes: Counts,
    ) -> None:
        """Takes what the model was asked about.

        Args:
            rows: Which image each point is for, on the CPU.
            points: What the model was asked about.
            found: Which of them it misclassifies.
            passes: That each of the images has taken by now, in all.
        """
        clean = self.images[rows.to(self.images.device)]
        found = found & ((points >= 0) & (points <= 1)).flatten(1).all(dim=1)
        sizes = distance(clean, points, self.norm).masked_fill(~found, torch.inf).cpu()
        nearest = torch.full_like(self._nearest, torch.inf).scatter_reduce(0, rows, sizes, "amin")
        closer = (nearest < self._nearest).nonzero()[:, 0]
        if len(closer):
            self._nearest[closer] = nearest[closer]
            self._steps.append((closer, (passes - self.before)[closer], nearest[closer]))

    def course(self, distances: Scalars, passes: Counts) -> Course:
        """What was written down, for what the search ended with.

        Args:
            distances: Of what holds; infinite where nothing does.
            passes: That each image took, in all.
        """
        nothing = (passes.new_zeros(0).cpu(), passes.new_zeros(0).cpu(), self._nearest.new_zeros(0))
        rows, taken, sizes = (torch.cat(part) for part in zip(nothing, *self._steps, strict=True))
        return Course(rows, taken, sizes).ending(distances, passes.cpu() - self.before)
