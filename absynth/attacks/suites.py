"""The front door: runs the attacks of a named suite and keeps the closest adversarial of each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from absynth.attacks.averaged import DRAWS
from absynth.attacks.base import Attack, AttackResult, check_batch
from absynth.attacks.batch import choose
from absynth.attacks.catalog import BUILDERS, SUITES
from absynth.attacks.checks import LOOKED_AT, check_model, remark_on_masking
from absynth.attacks.grid import check_grid, put_on_grid
from absynth.errors import AbsynthError
from absynth.models.pretrained import device_of
from absynth.norms import parse_norm
from absynth.progress import Progress


def suite_attacks(suite: str, norm: str) -> tuple[Attack, ...]:
    """The attacks of a suite for a norm, each with a name of its own.

    "quick" takes at most about 40 backward passes for a gradient attack, 300 queries for Boundary, 400 for
    Pointwise and 100 for noise. "broad" adds one short run of every other kind of attack that needs no
    further package, to look for what a certificate forbids. "strong" has the same attacks as "quick" with
    more steps and restarts, and attacks that take longer or use what only some models have. "paper" has the
    attacks of Table 1 of Schott et al. 2019 (arXiv 1805.09190), in L2, Linf and L0; the transfer among them
    has the shipped CNN as its substitute, so that models for other data than MNIST go without it. "extra"
    has what needs the packages of ``absynth[attacks]`` or tens of thousands of queries, and the exact search
    for models that decide by prototypes.

    Args:
        suite: One of ``SUITES``.
        norm: "l2", "l1", "linf" or "l0".

    Raises:
        AbsynthError: If there is no such suite or norm, or the suite has nothing for the norm.

    >>> [attack.name for attack in suite_attacks("quick", "l0")]
    ['salt-and-pepper', 'pointwise', 'fmn']
    """
    chosen = parse_norm(norm)
    for known in SUITES:
        if known == suite.strip().lower():
            attacks = BUILDERS[known](chosen)
            if not attacks:
                raise AbsynthError(f"The suite '{known}' has no attacks for {chosen}; choose another norm.")
            return attacks
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
    allow_random: bool = False,
    draws: int = DRAWS,
    grid: int | None = None,
) -> AttackResult:
    """Attacks a model with a whole suite and keeps the closest verified adversarial of each image.

    Attacks that do not apply to the model are left out. The distances are upper bounds on the robustness: a
    better attack may find closer adversarials. For lower bounds see ``absynth.certify``.

    Args:
        model: The classifier, from images to logits (batch, class).
        images: Clean images in [0, 1], shape (batch, channel, height, width); moved to the model's device.
        labels: Their classes, integers of shape (batch,).
        norm: "l2", "l1", "linf" or "l0".
        suite: See :func:`suite_attacks`.
        seed: The result is the same for the same seed, images, batch size and machine.
        batch_size: Images attacked together.
        progress: Where to show how far the attack is.
        allow_random: Attack a model that answers at random by the mean of its logits over ``draws`` answers;
            such a model is refused otherwise.
        draws: How many answers that are.
        grid: Give adversarials whose pixels are multiples of 1 / grid: those of 255 survive a picture of 8
            bits. They are verified as such, and the distances are theirs.

    Raises:
        AbsynthError: If an argument is not as described, no attack of the suite applies to the model, or its
            answers are such that the figures would be wrong (:func:`absynth.attacks.checks.check_model`).

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> weights = {"1.weight": torch.tensor([[1.0] * 4, [0.0] * 4]), "1.bias": torch.tensor([0.0, 0.5])}
    >>> model.load_state_dict(weights)
    <All keys matched successfully>
    >>> result = attack(model, torch.full((1, 1, 2, 2), 0.25), torch.tensor([0]), norm="linf", suite="quick")
    >>> result.success, result.distances.round(decimals=2)
    (tensor([True]), tensor([0.1300], dtype=torch.float64))
    """
    chosen = parse_norm(norm)
    attacks = [single for single in suite_attacks(suite, norm) if single.applies_to(model)]
    if not attacks:
        raise AbsynthError(
            f"No attack of the suite '{suite}' for {norm} applies to a {type(model).__name__}; "
            "choose another suite or norm."
        )
    if labels.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        labels = labels.long()
    check_batch(images, labels)
    if batch_size < 1:
        raise AbsynthError(f"The batch size is {batch_size}; it must be at least 1.")
    if grid is not None:
        check_grid(grid)
    home, device = images.device, device_of(model, images.device)
    checked = check_model(
        model, images[:LOOKED_AT].to(device), allow_random=allow_random, draws=draws, seed=seed
    )
    batches = list(zip(images.to(device).split(batch_size), labels.to(device).split(batch_size), strict=True))
    task = None
    if progress is not None:
        task = progress.add_task(f"attack {norm}", total=len(batches) * len(attacks), note="")
    results, by_attack = [], {single.name: list[Tensor]() for single in attacks}
    for batch_images, batch_labels in batches:
        best: AttackResult | None = None
        for single in attacks:
            if progress is not None and task is not None:
                progress.update(task, note=single.name)
            result = single(checked.model, batch_images, batch_labels, seed=seed)
            by_attack[single.name].append(result.distances.cpu())
            best = result if best is None else closest(best, result)
            if progress is not None and task is not None:
                progress.advance(task)
        if best is not None and grid is not None:
            best = put_on_grid(checked.model, batch_images, batch_labels, best, chosen, grid, seed)
        if best is not None:
            results.append(best)
    masking = remark_on_masking({name: torch.cat(found) for name, found in by_attack.items()}, chosen)
    return AttackResult(
        adversarials=torch.cat([result.adversarials for result in results]).to(home),
        distances=torch.cat([result.distances for result in results]).to(home),
        success=torch.cat([result.success for result in results]).to(home),
        queries=torch.cat([result.queries for result in results]).to(home),
        remarks=(
            *checked.remarks,
            *dict.fromkeys(remark for result in results for remark in result.remarks),
            *(() if masking is None else (masking,)),
        ),
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
        remarks=tuple(dict.fromkeys((*first.remarks, *second.remarks))),
    )
