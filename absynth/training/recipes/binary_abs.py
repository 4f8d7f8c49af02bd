"""binary-abs: how the shipped Binary ABS was made: the decoders of ABS behind the threshold.

Only the factors on the classes' losses are learned. The images that they are fitted on are bent a little
before: the VAEs know the training images too well to be wrong on them as often, and in the same way, as on
new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from absynth.errors import AbsynthError
from absynth.inference import ABS
from absynth.models.cnn import Binarized, binarize
from absynth.models.pretrained import PretrainedModel
from absynth.shapes import Labels, Losses
from absynth.training.assignment import Assignment, Train
from absynth.training.augmentation import bend
from absynth.training.finishing import validate
from absynth.training.recipe import Options, Recipe
from absynth.zoo import load

BASE = "abs"
FACTOR_IMAGES = 10000
"""Training images that the class factors are fitted on."""


def train_binary_abs(work: Assignment, base: nn.Module, *, seed: int = 0) -> PretrainedModel:
    """Binary ABS, with class factors fitted on training images.

    Args:
        work: The images, of which up to ``FACTOR_IMAGES`` are drawn.
        base: A trained ABS.
        seed: Of the draw.

    Raises:
        AbsynthError: If the base is no ABS.
    """
    if not isinstance(base, ABS):
        raise AbsynthError("Binary ABS takes its decoders from a trained ABS; name one as the base.")
    generator = torch.Generator().manual_seed(seed)
    chosen = work.trained[torch.randperm(len(work.trained), generator=generator)[:FACTOR_IMAGES]]
    task = work.progress.add_task("class factors", total=len(chosen), note="")
    losses = []
    for rows in chosen.split(250):
        with torch.no_grad():
            losses.append(base.infer(binarize(bend(work.images[rows], generator))).losses)
        work.progress.advance(task, len(rows))
    factors = fit_class_factors(torch.cat(losses), work.labels[chosen])
    model = Binarized(ABS(base.codebook, base.settings, factors))
    model.domain = base.domain
    record = {"command": work.command, "seed": seed, "images": len(chosen)}
    record |= validate(model, work)
    model.save_pretrained(work.out, record)
    return model.requires_grad_(False)


def fit_class_factors(losses: Losses, labels: Labels) -> list[float]:
    """Factors on the classes' losses, of mean 1, that make the true class the likeliest.

    Maximises the likelihood of softmax(−f_c s_c) over the factors f ≥ 0; their common scale, the sharpness,
    is divided out, as it changes no decision.

    Args:
        losses: s_c of training images.
        labels: Their classes.

    >>> fit_class_factors(torch.tensor([[1.0, 2.0], [2.1, 2.0]] * 9), torch.tensor([0, 1] * 9))[1] < 1
    True
    """
    logarithms = torch.zeros(losses.shape[1], dtype=torch.float64, requires_grad=True)
    scaled = losses.double() / losses.double().mean()
    optimizer = torch.optim.LBFGS([logarithms], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # The weak pull towards 1 keeps factors finite where the classes can be told apart perfectly.
        value = (
            functional.cross_entropy(-scaled * logarithms.exp(), labels) + 1e-4 * logarithms.square().sum()
        )
        value.backward()
        return value

    optimizer.step(closure)
    factors = logarithms.detach().exp()
    return [round(value, 4) for value in (factors / factors.mean()).tolist()]


def prepare(options: Options) -> Train:
    """Chooses the base, which is loaded when it is needed."""

    def train(work: Assignment) -> PretrainedModel:
        return train_binary_abs(work, load(options.base or BASE), seed=options.seed)

    return train


RECIPE = Recipe("binary-abs", prepare, takes=("base",), base=BASE)
