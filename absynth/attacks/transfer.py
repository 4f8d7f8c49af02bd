"""Transfer: adversarials of another model, scaled to the boundary of the model under test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.batch import choose, keep_closer, largest_size, per_image, size
from absynth.attacks.gradient_descent import smallest_radius
from absynth.attacks.projections import TINY
from absynth.attacks.target import Target
from absynth.data.domain import Domain
from absynth.errors import AbsynthError
from absynth.models.pretrained import domain_of, read_config, read_domain
from absynth.norms import Norm
from absynth.shapes import Images


@dataclass(frozen=True)
class Transfer(Attack):
    """Adversarials made on a substitute fool other models too (Papernot et al. 2016, arXiv 1605.07277).

    Each attack runs on the substitute. Its perturbation is only taken as a direction d from the clean image:
    the smallest ε for which clip(x + ε d) fools the model under test is searched on a coarse grid, then by
    bisection, below and beyond where the substitute was fooled. The closest over all attacks is kept. An
    image that the substitute itself gets wrong has no direction.

    The queries counted are those of the model under test alone.

    Attributes:
        name: Name in suites and records.
        norm: What is minimised; not L0, as scaling leaves the number of pixels as it is.
        substitute: A classifier of the same classes on the device of the images, or the name or folder of one
            that :func:`absynth.zoo.load` knows, which is loaded when the attack starts.
        attacks: What runs on the substitute; all in the same norm.
        bisections: Queries of each fine search for ε; the coarse one takes 10.

    Raises:
        AbsynthError: If there is no attack, or one of another norm.
    """

    name: str
    norm: Norm
    substitute: nn.Module | str
    attacks: tuple[Attack, ...]
    bisections: int = 10

    def __post_init__(self) -> None:
        """Sees that the attacks fit together."""
        if self.norm == "l0" or not self.attacks or any(one.norm != self.norm for one in self.attacks):
            raise AbsynthError(
                f"Transfer in {self.norm} needs attacks in {self.norm}, at least one, and does not know l0; "
                f"it was given {len(self.attacks)}: {', '.join(one.norm for one in self.attacks)}."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The substitute (its name, or a hash of its weights), its attacks and the number of bisections."""
        substitute = self.substitute
        return {
            "substitute": substitute if isinstance(substitute, str) else fingerprint(substitute),
            "attacks": [{"name": one.name, **one.settings} for one in self.attacks],
            "bisections": self.bisections,
        }

    def applies_to(self, model: nn.Module) -> bool:
        """Whether a substitute that is known by its name is for the same data, as far as that is known."""
        if not isinstance(self.substitute, str):
            return True
        known = domain_of(model)
        return known is None or known == self._domain(self.substitute)

    def fits(self, shape: torch.Size, classes: int) -> bool:
        """Whether a substitute that is known by its name takes such images and has as many classes."""
        if not isinstance(self.substitute, str):
            return True
        domain = self._domain(self.substitute)
        return tuple(shape) == (1, *domain.size) and classes == len(domain.class_names)

    def _domain(self, substitute: str) -> Domain:
        from absynth.zoo import model_folder

        return read_domain(read_config(model_folder(substitute)))

    def run(self, target: Target, images: Images) -> Images:
        """Attacks the substitute, then searches along what was found."""
        substitute = self.substitute
        if isinstance(substitute, str):
            from absynth.zoo import load

            substitute = load(substitute, device=images.device)
        largest = largest_size(images, self.norm)
        best, best_size = images.clone(), torch.full_like(largest, torch.inf)
        for one in self.attacks:
            result = one(substitute, images, target.labels, seed=int(torch.randint(2**31, (), device="cpu")))
            perturbation = result.adversarials - images
            rows = (size(perturbation, self.norm) > 0).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            found = self._scale(target.select(rows), images[rows], perturbation[rows])
            sizes = size(found - images[rows], self.norm)
            closest, closest_size = keep_closer(best[rows], best_size[rows], found, sizes, sizes > 0)
            best = best.index_copy(0, rows, closest)
            best_size = best_size.index_copy(0, rows, closest_size)
        return best

    def _scale(self, target: Target, images: Images, perturbations: Images) -> Images:
        direction = perturbations / per_image(size(perturbations, self.norm)).clamp(min=TINY)

        def path(epsilon: Tensor) -> Images:
            return (images + per_image(epsilon) * direction).clamp(0, 1)

        epsilon, found = smallest_radius(target, path, largest_size(images, self.norm), self.bisections)
        return choose(found, path(epsilon), images)


def fingerprint(model: nn.Module) -> str:
    """The name of a model's class with a hash of its weights.

    >>> fingerprint(nn.Flatten())
    'Flatten-e3b0c44298fc'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(model).__name__}-{digest.hexdigest()[:12]}"
