"""Models that answer at random, attacked by the mean of their answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from absynth.attacks.batch import Mask
from absynth.shapes import Images, Labels, Logits

DRAWS = 20
"""Answers that a mean is taken over, unless another number is asked for."""

FRESH = 10
"""How many times as many answers an adversarial has to hold for."""


SURENESS = 2.0
"""Standard errors by which the mean has to favour another class."""


class Averaged(nn.Module):
    """The mean of a random model's logits over some draws, other ones at every question.

    Its gradient is the mean of theirs (expectation over transformation, Athalye et al. 2018, arXiv
    1707.07397), and its decision is far less a matter of luck than that of one draw.

    Args:
        model: From images to logits, not alike at every question.
        draws: Answers to take the mean of.
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, images: Images) -> Logits:
        """The mean of the logits."""
        return torch.stack([self.model(images) for _ in range(self.draws)]).mean(dim=0)

    @torch.no_grad()
    def confirms(self, images: Images, labels: Labels) -> Mask:
        """Which images are misclassified by the mean over many draws that no attack has seen.

        For that not to be luck, the gap to the best rival has to be above 0 by some standard errors.

        Args:
            images: Found by an attack.
            labels: Their true classes.
        """
        drawn = torch.stack([self.model(images).double() for _ in range(FRESH * self.draws)])
        own = nn.functional.one_hot(labels, drawn.shape[2]).bool()
        rivals = drawn.mean(dim=0).masked_fill(own, -torch.inf).argmax(dim=1)
        rows = torch.arange(len(labels), device=labels.device)
        gaps = drawn[:, rows, rivals] - drawn[:, rows, labels]
        error = gaps.std(dim=0) / len(gaps) ** 0.5
        sure: Tensor = gaps.mean(dim=0) > SURENESS * error
        return sure
