"""The model as an attack sees it: labelled images go in, logits come out, every look is counted."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from absynth.attacks.averaged import FRESH, Averaged
from absynth.attacks.batch import Counts, Mask, Scalars
from absynth.attacks.course import Recorder
from absynth.inputs import whole_number
from absynth.models.asked import find_asked
from absynth.shapes import Images, Labels, Logits

LARGEST_GAP = 1e6
"""A gap between logits above this is divided by this much only, so that no logit becomes NaN."""


_ONE_AT_A_TIME = threading.RLock()

Loss = Callable[[Logits, Labels], Scalars]


@dataclass(frozen=True)
class Slope:
    """A loss to raise, at some images.

    Attributes:
        adversarial: Which of the images are misclassified.
        loss: The loss of each.
        gradient: Its gradient in the image; 0 where it is no number.
    """

    adversarial: Mask
    loss: Scalars
    gradient: Images


class Target(nn.Module):
    """A classifier under attack, with the labels of the images attacked and a count of queries.

    Images given to it must be as many as its labels and in their order; :meth:`select` gives the target for
    some of them, and counts on the same account.

    Args:
        model: Any module from images to logits.
        labels: The class of each image, shape (batch,).

    Attributes:
        model: The module itself, for attacks that know more of it.
        labels: The class of each image.
        queries: How often the model has seen each image forward, over all selections, shape (images,),
            on the CPU.
        backwards: How often a gradient was taken through its answer, likewise.
        remarks: What the result should say of the search, a sentence each; shared with all selections.
        recorder: What writes down how near the adversarials come, if anything; shared likewise.
    """

    labels: Tensor
    queries: Tensor
    backwards: Tensor

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.model = model
        self.labels = labels
        self.queries = torch.zeros(len(labels), dtype=torch.int64, device="cpu")
        self.backwards = torch.zeros_like(self.queries)
        self.remarks: list[str] = []
        self.recorder: Recorder | None = None
        self._rows = torch.arange(len(labels), device="cpu")

    def select(self, rows: Counts | Mask) -> Target:
        """The target for the images at ``rows``; the same image may come up several times.

        Args:
            rows: Indices, or a mask over the images of this target.
        """
        part = Target(self.model, self.labels[rows])
        part.queries, part.backwards, part.remarks = self.queries, self.backwards, self.remarks
        part.recorder = self.recorder
        part._rows = self._rows[rows.cpu()]
        return part

    def forward(self, images: Images) -> Tensor:
        """The model's logits, connected to the images even where the model ignores them.

        They are whatever the model answers; an attack begins by checking their shape.
        """
        self.count()
        # a view, so that a model that asks for a gradient in what it is given does not ask for one in ours
        logits = connect(self.model(images.view_as(images)), images)
        if self.recorder is not None:
            found = misclassified(logits.detach(), self.labels)
            self.recorder.note(self._rows, images.detach(), found, self.queries + self.backwards)
        on_backward(logits, self.count_backward)
        return logits

    def seen(self, images: Images) -> Images:
        """The images as the model sees them: rounded, where it takes a coarser type than they have."""
        asked = find_asked(self.model)
        return images if asked is None else images.to(asked.own).to(images.dtype)

    def count(self, queries: int = 1) -> None:
        """Adds queries of every image, for attacks that ask the model itself, or for more than logits."""
        self.queries.index_add_(0, self._rows, torch.full_like(self._rows, queries))

    def count_backward(self, passes: int = 1) -> None:
        """Adds backward passes of every image, for attacks that differentiate in a way of their own."""
        self.backwards.index_add_(0, self._rows, torch.full_like(self._rows, passes))

    @torch.no_grad()
    def is_adversarial(self, images: Images) -> Mask:
        """Which images the model misclassifies; NaN logits decide nothing and do not count."""
        return misclassified(self(images), self.labels)

    def confirmed(self, images: Images) -> Mask:
        """Which images a model that answers at random misclassifies in the mean over fresh draws."""
        assert isinstance(self.model, Averaged)
        self.count(FRESH)
        return self.model.confirms(images, self.labels)

    def slope(self, images: Images, loss: Loss) -> Slope:
        """A loss and its gradient in the images, from one forward and one backward pass.

        Args:
            images: Where to take it.
            loss: What the attack raises, from logits and labels.
        """
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            logits = self(inputs)
            losses = loss(logits, self.labels)
            (gradient,) = torch.autograd.grad(losses.sum(), inputs)
        return Slope(
            adversarial=misclassified(logits.detach(), self.labels),
            loss=losses.detach(),
            gradient=torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0),
        )


def connect(logits: Tensor, images: Images) -> Tensor:
    """Logits that depend on the images, with a derivative of 0 where the model ignores them."""
    if images.requires_grad and not logits.requires_grad:
        return logits + 0 * images.flatten(1).sum(dim=1, keepdim=True)
    return logits


def on_backward(logits: Tensor, act: Callable[[], None]) -> None:
    """Calls ``act`` whenever a gradient is taken through the logits."""
    if logits.requires_grad:

        def hook(_: Tensor) -> None:
            act()

        logits.register_hook(hook)


class _OfImagesAlone(torch.autograd.Function):
    """A model's answer with a gradient in the images alone, whatever else it depends on."""

    @staticmethod
    def forward(context: Any, images: Tensor, model: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            context.images, context.answer = inputs, connect(model(inputs), inputs)
        answer: Tensor = context.answer.detach()
        return answer

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        answer, images = context.answer, context.images
        (gradient,) = torch.autograd.grad(answer, images, gradients, retain_graph=True)
        return gradient, None


def of_images_alone(model: Callable[[Tensor], Tensor], images: Images) -> Tensor:
    """A model's logits, for packages that differentiate by ``backward()``: no parameter collects a gradient.

    That of a network which a model uses and does not own would, whatever :func:`absynth.models.asked.frozen`
    does to the model's own.

    Args:
        model: From images to logits.
        images: To ask it about.
    """
    if not (torch.is_grad_enabled() and images.requires_grad):
        return model(images)
    result: Tensor = _OfImagesAlone.apply(images, model)  # type: ignore[no-untyped-call]
    return result


def misclassified(logits: Logits, labels: Labels) -> Mask:
    """Where the largest logit is not the label's.

    >>> misclassified(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), torch.tensor([0, 0]))
    tensor([ True, False])
    """
    return (logits.argmax(dim=1) != labels) & ~logits.isnan().any(dim=1)


def margin_loss(logits: Logits, labels: Labels) -> Scalars:
    """max_{k≠y} logit_k − logit_y, above 0 where an image is misclassified (arXiv 1608.04644, section V).

    >>> margin_loss(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0]))
    tensor([2.])
    """
    own = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]


def cross_entropy(logits: Logits, labels: Labels) -> Scalars:
    """The cross-entropy of tempered logits (:func:`temper`)."""
    return nn.functional.cross_entropy(temper(logits), labels, reduction="none")


def temper(logits: Logits) -> Logits:
    """Logits over max(1, gap), the gap between the two largest taken as a constant.

    A softmax over wide gaps is 1 to the last bit and its gradient 0, which makes a model look robust that is
    not. Rescaling keeps the decision and the direction of the gradient, and undoes that (Carlini and Wagner
    2016, arXiv 1607.04311, on distilled networks).

    >>> temper(torch.tensor([[100.0, 50.0, 0.0]]))
    tensor([[2., 1., 0.]])
    """
    best = logits.detach().topk(2, dim=1).values
    return logits / (best[:, :1] - best[:, 1:]).clamp(1, LARGEST_GAP)


@contextmanager
def private_randomness(seed: Any, device: torch.device) -> Iterator[None]:
    """Seeds the global generators inside the block; afterwards they are as before.

    Foolbox draws from those of torch and numpy and from no other; a user's model may draw from Python's own.
    All threads share these generators: one that comes while another is inside waits until it has left.

    Args:
        seed: Seed of all three, at least 0.
        device: Where the images are.

    Raises:
        AbsynthError: If the seed is no such number.
    """
    import numpy as np

    seed = whole_number(seed, "seed", least=0)
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state: Any = np.random.get_state()
        own = random.getstate()
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            np.random.set_state(state)
            random.setstate(own)
