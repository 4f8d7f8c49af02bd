"""The named suites of attacks, and the front door that keeps the closest adversarial over a suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.base import Attack, AttackResult, check_batch
from absynth.attacks.batch import choose
from absynth.attacks.fast_minimum_norm import FastMinimumNorm
from absynth.attacks.gradient_descent import FastGradient, ProjectedGradient
from absynth.attacks.noise import NoiseAttack
from absynth.attacks.pointwise import Pointwise
from absynth.errors import AbsynthError
from absynth.norms import Norm, parse_norm
from absynth.progress import Progress

Suite = Literal["quick", "strong"]
SUITES: tuple[Suite, ...] = get_args(Suite)


def suite_attacks(suite: str, norm: str) -> tuple[Attack, ...]:
    """The attacks of a suite for a norm, each with a name of its own.

    "quick" takes at most about 40 backward passes for a gradient attack, 300 queries for Boundary, 400 for
    Pointwise and 100 for noise. "strong" has the same attacks with more steps and restarts.

    Args:
        suite: "quick" or "strong".
        norm: "l2", "l1", "linf" or "l0".

    Raises:
        AbsynthError: If there is no such suite or norm.

    >>> [attack.name for attack in suite_attacks("quick", "l0")]
    ['salt-and-pepper', 'pointwise', 'fmn']
    """
    chosen = parse_norm(norm)
    for known in SUITES:
        if known == suite.strip().lower():
            return _BUILDERS[chosen](known == "strong")
    raise AbsynthError(f"There is no suite '{suite}'; choose one of {', '.join(SUITES)}.")


def find_attack(name: str, norm: str, suite: str = "strong") -> Attack:
    """The attack of a suite that is called ``name``.

    Raises:
        AbsynthError: If the suite has no such attack for the norm.

    >>> find_attack("ddn", "l2").norm
    'l2'
    """
    attacks = suite_attacks(suite, norm)
    for candidate in attacks:
        if candidate.name == name.strip().lower():
            return candidate
    names = ", ".join(candidate.name for candidate in attacks)
    raise AbsynthError(f"There is no attack '{name}' for {parse_norm(norm)}; choose one of {names}.")


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str = "l2",
    suite: str = "strong",
    *,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> AttackResult:
    """Attacks a model with a whole suite and keeps the closest verified adversarial of each image.

    The distances are upper bounds on the robustness: a better attack may find closer adversarials. For lower
    bounds see ``absynth.certify``.

    Args:
        model: The classifier, from images to logits (batch, class).
        images: Clean images in [0, 1], shape (batch, channel, height, width); moved to the model's device.
        labels: Their classes, integers of shape (batch,).
        norm: "l2", "l1", "linf" or "l0".
        suite: "quick" or "strong", see :func:`suite_attacks`.
        seed: The result is the same for the same seed, images, batch size and machine.
        batch_size: Images attacked together.
        progress: Where to show how far the attack is.

    Raises:
        AbsynthError: If an argument is not as described.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> weights = {"1.weight": torch.tensor([[1.0] * 4, [0.0] * 4]), "1.bias": torch.tensor([0.0, 0.5])}
    >>> model.load_state_dict(weights)
    <All keys matched successfully>
    >>> result = attack(model, torch.full((1, 1, 2, 2), 0.25), torch.tensor([0]), norm="linf", suite="quick")
    >>> result.success, result.distances.round(decimals=2)
    (tensor([True]), tensor([0.1300], dtype=torch.float64))
    """
    attacks = suite_attacks(suite, norm)
    if labels.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        labels = labels.long()
    check_batch(images, labels)
    if batch_size < 1:
        raise AbsynthError(f"The batch size is {batch_size}; it must be at least 1.")
    home, device = images.device, _device(model, images)
    batches = list(zip(images.to(device).split(batch_size), labels.to(device).split(batch_size), strict=True))
    task = None
    if progress is not None:
        task = progress.add_task(f"attack {norm}", total=len(batches) * len(attacks), note="")
    results = []
    for batch_images, batch_labels in batches:
        best: AttackResult | None = None
        for single in attacks:
            if progress is not None and task is not None:
                progress.update(task, note=single.name)
            result = single(model, batch_images, batch_labels, seed=seed)
            best = result if best is None else closest(best, result)
            if progress is not None and task is not None:
                progress.advance(task)
        if best is not None:
            results.append(best)
    return AttackResult(
        adversarials=torch.cat([result.adversarials for result in results]).to(home),
        distances=torch.cat([result.distances for result in results]).to(home),
        success=torch.cat([result.success for result in results]).to(home),
        queries=torch.cat([result.queries for result in results]).to(home),
    )


def closest(first: AttackResult, second: AttackResult) -> AttackResult:
    """The closer adversarial of two results, image by image; the queries of both are added.

    Args:
        first: A result for some images in some norm.
        second: Another for the same images in the same norm.
    """
    better = second.success & (second.distances < first.distances)
    return AttackResult(
        adversarials=choose(better, second.adversarials, first.adversarials),
        distances=torch.minimum(first.distances, second.distances),
        success=first.success | second.success,
        queries=first.queries + second.queries,
    )


def _device(model: nn.Module, images: Tensor) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return images.device


def _foolbox(name: str, norm: Norm, kind: str, needs_start: bool = False, **parameters: Any) -> FoolboxAttack:
    return FoolboxAttack(
        name=name,
        norm=norm,
        make=foolbox_class(kind, **parameters),
        parameters={"foolbox": kind, **parameters},
        needs_start=needs_start,
    )


def _iterative(norm: Norm, strong: bool) -> list[Attack]:
    steps, runs = (40, 10) if strong else (10, 4)
    return [
        ProjectedGradient("bim", norm, steps=steps, runs=runs, relative_step=2 / steps),
        ProjectedGradient(
            "pgd",
            norm,
            steps=steps,
            runs=runs,
            relative_step=2.5 / steps,
            random_start=True,
            restarts=3 if strong else 1,
            loss="margin",
        ),
    ]


def _l2(strong: bool) -> tuple[Attack, ...]:
    return (
        FastGradient("fgm", "l2"),
        *_iterative("l2", strong),
        _foolbox(
            "deepfool",
            "l2",
            "L2DeepFoolAttack",
            steps=50 if strong else 10,
            candidates=10 if strong else 4,
        ),
        _foolbox("ddn", "l2", "DDNAttack", steps=200 if strong else 40),
        FastMinimumNorm("fmn", "l2", steps=200 if strong else 40),
        _foolbox(
            "boundary",
            "l2",
            "BoundaryAttack",
            needs_start=True,
            steps=5000 if strong else 200,
            spherical_step=0.1,
            source_step=0.01,
        ),
        _pointwise("l2", strong),
        NoiseAttack("gaussian-noise", "l2", "gaussian", draws=200 if strong else 20),
    )


def _linf(strong: bool) -> tuple[Attack, ...]:
    steps, runs = (40, 10) if strong else (10, 4)
    return (
        FastGradient("fgsm", "linf"),
        *_iterative("linf", strong),
        ProjectedGradient("mim", "linf", steps=steps, runs=runs, relative_step=2 / steps, momentum=1.0),
        _foolbox(
            "deepfool",
            "linf",
            "LinfDeepFoolAttack",
            steps=50 if strong else 10,
            candidates=10 if strong else 4,
        ),
        FastMinimumNorm("fmn", "linf", steps=200 if strong else 40, first_step=3.0),
        NoiseAttack("uniform-noise", "linf", "uniform", draws=200 if strong else 20),
    )


def _l1(strong: bool) -> tuple[Attack, ...]:
    return (
        *_iterative("l1", strong),
        FastMinimumNorm("fmn", "l1", steps=200 if strong else 40, first_step=3.0),
        _pointwise("l1", strong),
    )


def _l0(strong: bool) -> tuple[Attack, ...]:
    return (
        NoiseAttack("salt-and-pepper", "l0", "salt-and-pepper", draws=200 if strong else 20),
        _pointwise("l0", strong),
        FastMinimumNorm("fmn", "l0", steps=200 if strong else 40, first_step=10.0),
    )


def _pointwise(norm: Norm, strong: bool) -> Pointwise:
    # for L2 and L1 there is a second search of at most as many queries
    quick_queries = 300 if norm == "l0" else 150
    return Pointwise(
        "pointwise",
        norm,
        repetitions=10 if strong else 1,
        max_queries=2000 if strong else quick_queries,
    )


_BUILDERS: dict[Norm, Callable[[bool], tuple[Attack, ...]]] = {
    "l2": _l2,
    "linf": _linf,
    "l1": _l1,
    "l0": _l0,
}
