"""Models that answer with probabilities, attacked by their logarithms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from absynth.models.asked import Asked
from absynth.shapes import Images, Logits

AGREEMENT = 1e-3
"""How far the probabilities in double precision, or those of a softmax, may be from the model's own."""

SOFTMAX: tuple[Callable[..., Any], ...] = (
    torch.softmax,
    torch.Tensor.softmax,
    torch.special.softmax,
    nn.functional.softmax,
)


class LogProbabilities(nn.Module):
    """The logarithms of a model's probabilities: its logits again, but for a constant of each image.

    A softmax over wide logits rounds to 1 and 0, and its gradient to 0, which hides an attack's way. Where a
    softmax is the last thing that the model does, what went into it is taken, also where the answer is then
    put into another type, or clipped away from 0 and 1. Otherwise the probabilities are computed in double
    precision, which leaves something to take the logarithm of, down to 1e-308. The decision is the model's
    own.

    Args:
        model: From images to probabilities.
        precise: The same in double precision; None where that is not needed or not to be had.
    """

    def __init__(self, model: nn.Module, precise: nn.Module | None) -> None:
        super().__init__()
        self.model, self.precise = model, precise

    def forward(self, images: Images) -> Logits:
        """The logarithms, with the largest where the model itself has its largest probability."""
        own, logits = ask(self.model, images)
        if logits is None:
            answers = own if self.precise is None else self.precise(images.double())
            logits = answers.clamp(min=torch.finfo(answers.dtype).tiny).log()
        with torch.no_grad():
            decisions = own.argmax(dim=1, keepdim=True)
            largest = logits.amax(dim=1, keepdim=True)
            short = largest - logits.gather(1, decisions)
            lift = torch.where(short > 0, short + 1e-6 * largest.abs() + 1e-6, 0)
        lifted: Tensor = logits.scatter_add(1, decisions, lift).to(own.dtype)
        return lifted


def ask(model: nn.Module, images: Images) -> tuple[Tensor, Logits | None]:
    """A model's answer, and its logarithm if it is what a softmax has made, up to rounding and clipping.

    Args:
        model: From images to probabilities.
        images: To ask about.
    """
    with _Softmaxes() as made:
        answer = model(images)
    alike = [pair for pair in made.pairs if pair[1].shape == answer.shape]
    for probabilities, logits in alike:
        # of several, as in a mean over networks, none stands for the answer
        if probabilities is answer or (len(alike) == 1 and _close(probabilities, answer)):
            return answer, logits.to(answer.dtype).log_softmax(dim=1)
    return answer, None


@torch.no_grad()
def _close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().amax() < AGREEMENT)


class _Softmaxes(TorchFunctionMode):
    """Notes what every softmax takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in SOFTMAX:
            given = args[0] if args else (kwargs or {})["input"]
            self.pairs.append((result, given))
        return result


@torch.no_grad()
def with_logarithms(model: nn.Module, images: Images) -> LogProbabilities:
    """The model that answers with the logarithms, by the way that suits it.

    Args:
        model: From images to probabilities.
        images: To try it on.
    """
    own, logits = ask(model, images)
    precise = None
    if logits is None:
        try:
            precise = copy.deepcopy(model).double()
            for part in precise.modules():
                if isinstance(part, Asked):
                    part.own = torch.float64
            answers = precise(images.double())
        except Exception:  # whatever a user's code may raise for a type that it was not written for
            return LogProbabilities(model, None).eval()
        if answers.dtype != torch.float64 or not _close(answers, own):
            precise = None
    return LogProbabilities(model, precise).eval()
