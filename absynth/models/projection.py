"""Bounds on the distance to many prototypes from a few coordinates of each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from absynth.cores import one_core_each
from absynth.rounding import gamma

DIMENSIONS = 160
"""Coordinates kept of every prototype; of MNIST's codebooks they leave 1 in 1,000 to be looked at in full."""

SAMPLE = 8192
"""Prototypes whose principal axes are used: many times as many as axes, or they fit it alone."""

SAMPLE_OF_LARGE = 512
"""The same for images of more pixels than ``MOST_PIXELS``, where the axes of many take too long."""

MOST_PIXELS = 1024
"""Pixels for which eigenvectors of a matrix of as many rows are found in a moment."""

PROJECTED_AT_ONCE = 1024
"""Prototypes whose coordinates a core computes together: few enough to stay in its cache."""


def principal_axes(
    flat: Float[Tensor, "some pixel"], dimensions: int, sample: int
) -> Float[Tensor, "pixel axis"]:
    """An orthonormal basis, in float64, of what a sample of images has most of.

    Args:
        flat: Images.
        dimensions: Number of axes, if there are as many.
        sample: About how many of the images are looked at.
    """
    some = flat[:: max(1, len(flat) // sample)].double()
    wanted = min(dimensions, *some.shape)
    if len(some) > flat.shape[1]:
        basis: Tensor = torch.linalg.eigh(some.T @ some)[1][:, -wanted:]
    else:
        _, axes = torch.linalg.eigh(some @ some.T)
        basis = torch.linalg.qr(some.T @ axes[:, -wanted:])[0]
    return basis


class Projection(nn.Module):
    """Prototypes in a basis of their principal axes, with the length of what lies outside.

    With a = Vᵀx, b = Vᵀp and the rests r_x = ‖x − Va‖, r_p = ‖p − Vb‖ of an orthonormal V, the inequality of
    Cauchy and Schwarz gives ⟨x, p⟩ ≤ ⟨a, b⟩ + r_x r_p. Every basis is sound; the principal axes make the
    rests small, so that ‖p‖² + w − 2⟨x, p⟩ is bounded well from below at a fifth of its cost.

    Args:
        basis: V.
        factors: −2b, −2r_p and ‖p‖² + w of each prototype.
        norms: The largest ‖p‖ of each class.
    """

    basis: Tensor
    factors: Tensor
    norms: Tensor

    def __init__(
        self,
        basis: Float[Tensor, "pixel axis"],
        factors: Float[Tensor, "class prototype factor"],
        norms: Float[Tensor, "class"],
    ) -> None:
        super().__init__()
        self._gamma = gamma(len(basis) + 3, torch.float32)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("factors", factors, persistent=False)
        self.register_buffer("norms", norms, persistent=False)

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "class prototype pixel"],
        squares: Float[Tensor, "class prototype"],
        energies: Float[Tensor, "class prototype"],
    ) -> Projection:
        """The projection of prototypes to the principal axes of a sample of them.

        Args:
            images: Prototypes.
            squares: ‖p‖² of each.
            energies: ‖p‖² + w of each.
        """
        flat = images.flatten(0, 1)
        sample = SAMPLE if flat.shape[1] <= MOST_PIXELS else SAMPLE_OF_LARGE
        basis = principal_axes(flat, DIMENSIONS, sample).to(images.dtype).contiguous()
        factors = images.new_empty(*squares.shape, basis.shape[1] + 2)
        projection = cls(basis, factors, squares.amax(1).sqrt())
        lengths, table = squares.flatten(), factors.flatten(0, 1)

        def fill(rows: slice) -> None:
            torch.mul(projection._with_rest(flat[rows], lengths[rows]), -2, out=table[rows, :-1])

        first = range(0, len(flat), PROJECTED_AT_ONCE)
        one_core_each(fill, [slice(row, row + PROJECTED_AT_ONCE) for row in first], images.device)
        table[:, -1] = energies.flatten()
        return projection

    def forward(self, flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch coordinate"]:
        """The coordinates of images, the length of the rest last."""
        return self._with_rest(flat, flat.square().sum(1))

    def bounds(
        self, coordinates: Float[Tensor, "batch coordinate"], labels: slice
    ) -> Float[Tensor, "batch class prototype"]:
        """Lower bounds of ‖p‖² + w − 2⟨x, p⟩ for images of which :meth:`forward` gave the coordinates.

        Args:
            coordinates: Of the images.
            labels: The classes whose prototypes are meant.
        """
        factors = self.factors[labels]
        one = coordinates.new_ones(len(coordinates), 1)
        product: Tensor = torch.cat([coordinates, one], dim=1) @ factors.flatten(0, 1).T
        bounds: Tensor = product.unflatten(1, factors.shape[:2])
        return bounds

    def slack(
        self, coordinates: Float[Tensor, "batch coordinate"], labels: slice
    ) -> Float[Tensor, "batch class"]:
        """How far rounding may lift the bounds above what they bound; arguments as of :meth:`bounds`.

        A coordinate computed with γ = γ_{pixels+3} is off by at most γ‖p‖ and d of them together by √d γ‖p‖,
        so ⟨a, b⟩ is off by (2√d + 1)γ‖x‖‖p‖ and the bound, which has it twice, by twice as much; the rests
        are rounded up. Half as much again covers the products of these errors. What rounding does to
        ‖p‖² + w is the caller's to add.
        """
        factor = 3 * (2 * self.basis.shape[1] ** 0.5 + 1) * self._gamma
        lengths: Tensor = factor * coordinates.norm(dim=1)[:, None] * self.norms[labels]
        return lengths

    def _with_rest(
        self, flat: Float[Tensor, "some pixel"], squares: Float[Tensor, "some"]
    ) -> Float[Tensor, "some coordinate"]:
        inside = flat @ self.basis
        # ‖p‖² is off by γ‖p‖², ‖b‖² by (2√d + 1)γ‖p‖²: added, they make the rest too long, never too short.
        error = (2 * self.basis.shape[1] ** 0.5 + 3) * self._gamma * squares
        outside = ((squares - inside.square().sum(1)).clamp(min=0) + error).sqrt()
        return torch.cat([inside, outside[:, None]], dim=1)
