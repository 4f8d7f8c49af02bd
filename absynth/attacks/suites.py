"""The front door: runs the attacks of a named suite and keeps the closest adversarial of each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor, nn

from absynth.attacks.averaged import DRAWS
from absynth.attacks.base import Attack, AttackResult, as_given
from absynth.attacks.batch import Mask, choose
from absynth.attacks.callable import as_attacks
from absynth.attacks.catalog import BUILDERS, SUITES
from absynth.attacks.checks import check_model, remark_on_masking
from absynth.attacks.door import opened
from absynth.attacks.grid import put_on_grid
from absynth.errors import AbsynthError, first_line
from absynth.inputs import whole_number
from absynth.models.asked import inside
from absynth.norms import Norm, parse_norm
from absynth.progress import Progress
from absynth.shapes import Images, Labels

DEFAULT = "strong"
"""The suite that is run where neither a suite nor attacks are named."""

MISFIT = "what it begins from is for images of another size or for other classes."
"""Why an attack is left out that brings along another model."""

OUTSIDE = (
    "it looks inside the model, which can only be asked from outside; give one that computes in float32 and "
    "answers with plain logits."
)
"""Why an attack is left out that applies to a model, but not to what helps to ask it."""


def suite_attacks(suite: Any, norm: Any) -> tuple[Attack, ...]:
    """The attacks of a suite for a norm, each with a name of its own.

    "quick" takes at most about 40 backward passes for a gradient attack, 300 queries for Boundary, 400 for
    Pointwise and 100 for noise. "broad" adds one short run of every other kind of attack that needs no
    further package, to look for what a certificate forbids. "strong" has the same attacks as "quick" with
    more steps and restarts, and attacks that take longer or use what only some models have. "paper" has the
    attacks of Table 1 of Schott et al. 2019 (arXiv 1805.09190), in L2, Linf and L0; the transfer among them
    has the shipped CNN as its substitute, so that models for other data than MNIST go without it. "extra"
    has what needs the packages of ``absynth[attacks]`` or tens of thousands of queries, and the exact search
    for models that decide by prototypes. "every" has the attacks of both "strong" and "extra", and some of
    foolbox as foolbox runs them, to compare attacks.

    Args:
        suite: One of ``SUITES``.
        norm: "l2", "l1", "linf" or "l0", or the order of one.

    Raises:
        AbsynthError: If there is no such suite or norm, or the suite has nothing for the norm.

    >>> [attack.name for attack in suite_attacks("quick", "l0")]
    ['salt-and-pepper', 'pointwise', 'fmn']
    """
    chosen = parse_norm(norm)
    for known in SUITES:
        if isinstance(suite, str) and known == suite.strip().lower():
            attacks = BUILDERS[known](chosen)
            if not attacks:
                raise AbsynthError(f"The suite '{known}' has no attacks for {chosen}; choose another norm.")
            return attacks
    raise AbsynthError(f"There is no suite '{suite}'; choose one of {', '.join(SUITES)}.")


def find_attack(name: Any, norm: Any, suite: Any = "strong") -> Attack:
    """The attack of a suite that is called ``name``.

    Raises:
        AbsynthError: If the suite has no such attack for the norm.

    >>> find_attack("ddn", "l2").norm
    'l2'
    """
    attacks = suite_attacks(suite, norm)
    for candidate in attacks:
        if isinstance(name, str) and candidate.name == name.strip().lower():
            return candidate
    names = ", ".join(candidate.name for candidate in attacks)
    raise AbsynthError(f"There is no attack '{name}' for {parse_norm(norm)}; choose one of {names}.")


def attack(
    model: Any,
    images: Any,
    labels: Any,
    norm: Any = "l2",
    suite: Any = None,
    *,
    attacks: Any = None,
    budget: Any = None,
    seed: Any = 0,
    batch_size: Any = 100,
    progress: Progress | None = None,
    allow_random: bool = False,
    draws: Any = DRAWS,
    grid: Any = None,
) -> AttackResult:
    """Attacks a model with a suite, or with attacks of your own, and keeps the closest verified adversarials.

    Attacks are untargeted: any class but the label counts. The labels are the true classes, and an image
    that the model gets wrong from the start is its own adversarial, at distance 0.

    Attacks that do not apply to the model are left out, and one that breaks loses none of the others: the
    remarks of the result name both. The distances are upper bounds on the robustness: a better attack may
    find closer adversarials. For lower bounds see ``absynth.certify``.

    Args:
        model: The classifier, from images to logits (batch, class): a module, or any function. It is held in
            evaluation mode meanwhile.
        images: Clean images in [0, 1], shape (batch, channel, height, width), in any form that
            :mod:`absynth.inputs` names; copies are moved to the model's device and type.
        labels: Their true classes, whole numbers of shape (batch,).
        norm: "l2", "l1", "linf" or "l0", or the order of one.
        suite: See :func:`suite_attacks`; by default "strong", or none if there are ``attacks``.
        attacks: Attacks of your own or of other libraries, in any form that
            :class:`absynth.attacks.Callable` takes, and attacks of this package in this norm.
        budget: Forward and backward passes, together, that an image may take of each attack of your own; any
            number by default.
        seed: The result is the same for the same seed, images, batch size and machine.
        batch_size: Images attacked together.
        progress: Where to show how far the attack is.
        allow_random: Attack a model that answers at random by the mean of its logits over ``draws`` answers;
            such a model is refused otherwise.
        draws: How many answers that are.
        grid: Give adversarials whose pixels are multiples of 1 / grid: those of 255 survive a picture of 8
            bits. They are verified as such, and the distances are theirs.

    Raises:
        AbsynthError: If an argument is not as described, no attack of the suite applies to the model, every
            one breaks, or the model's answers are such that the figures would be wrong
            (:func:`absynth.attacks.checks.check_model`).

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> weights = {"1.weight": torch.tensor([[1.0] * 4, [0.0] * 4]), "1.bias": torch.tensor([0.0, 0.5])}
    >>> model.load_state_dict(weights)
    <All keys matched successfully>
    >>> result = attack(model, torch.full((1, 1, 2, 2), 0.25), torch.tensor([0]), norm="linf", suite="quick")
    >>> result.success, result.distances.round(decimals=2)
    (tensor([True]), tensor([0.1300], dtype=torch.float64))
    """
    chosen = parse_norm(norm)
    every = _chosen(chosen, suite, attacks, budget)
    batch_size, draws = whole_number(batch_size, "batch size"), whole_number(draws, "number of draws")
    seed = whole_number(seed, "seed", least=0)
    if grid is not None:
        grid = whole_number(grid, "number of steps of the grid (255 for 8 bits)")
    with opened(model, images, labels, seed) as door:
        inner = inside(door.model)
        applying = [single for single in every if single.applies_to(door.model)]
        fitting = [single for single in applying if single.fits(door.images.shape[1:], door.classes)]
        if not fitting:
            of = (
                f"the suite '{suite or DEFAULT}'" if attacks is None else ", ".join(one.name for one in every)
            )
            raise AbsynthError(
                f"No attack of {of} for {chosen} applies to a {type(model).__name__}; choose another suite "
                "or norm."
            )
        checked = check_model(door.model, door.images, allow_random=allow_random, draws=draws, seed=seed)
        run = _Run(checked.model, fitting, seed, progress)
        task = None
        batches = list(zip(door.images.split(batch_size), door.labels.split(batch_size), strict=True))
        if progress is not None:
            task = progress.add_task(f"attack {chosen}", total=len(batches) * len(fitting), note="")
        results = [run.batch(some, numbers, task) for some, numbers in batches]
        masking = remark_on_masking(run.distances(len(door.images)), chosen)
        if grid is not None:
            results = [
                put_on_grid(checked.model, some, numbers, found, chosen, grid, seed)
                for (some, numbers), found in zip(batches, results, strict=True)
            ]
        remarks = (
            *checked.remarks,
            *(_left_out(single, MISFIT) for single in applying if single not in fitting),
            *(
                _left_out(single, OUTSIDE)
                for single in every
                if single not in applying and single.applies_to(inner)
            ),
            *run.remarks(len(door.images)),
            *(() if masking is None else (masking,)),
            *dict.fromkeys(remark for one in results for remark in one.remarks),
            *_wrong_from_the_start(torch.cat([one.misclassified for one in results])),
        )
        whole = AttackResult(
            adversarials=torch.cat([result.adversarials for result in results]),
            distances=torch.cat([result.distances for result in results]),
            success=torch.cat([result.success for result in results]),
            queries=torch.cat([result.queries for result in results]),
            backwards=torch.cat([result.backwards for result in results]),
            remarks=remarks,
            seconds=sum(result.seconds for result in results),
        )
        return as_given(whole, door, chosen)


def _chosen(norm: Norm, suite: Any, attacks: Any, budget: Any) -> tuple[Attack, ...]:
    """The attacks that are asked for.

    Raises:
        AbsynthError: If there is no such suite, an attack is none, or a budget is given without an attack.
    """
    if attacks is None:
        if budget is not None:
            raise AbsynthError(
                "A budget is for attacks of your own; give attacks=[my_attack], or leave it out."
            )
        return suite_attacks(DEFAULT if suite is None else suite, norm)
    return (*(() if suite is None else suite_attacks(suite, norm)), *as_attacks(attacks, norm, budget))


@dataclass
class _Run:
    """Several attacks on a model, batch by batch."""

    model: nn.Module
    attacks: list[Attack]
    seed: int
    progress: Progress | None
    failures: dict[str, tuple[int, BaseException]] = field(default_factory=dict)
    found: dict[str, list[Tensor]] = field(default_factory=dict)

    def batch(self, images: Images, labels: Labels, task: TaskID | None) -> AttackResult:
        """The closest adversarials of one batch.

        Raises:
            AbsynthError: If every attack broke.
        """
        best: AttackResult | None = None
        last: BaseException | None = None
        for single in self.attacks:
            if self.progress is not None and task is not None:
                self.progress.update(task, note=single.name)
            try:
                result = single.search(self.model, images, labels, seed=self.seed)
                self.found.setdefault(single.name, []).append(result.distances.cpu())
                best = result if best is None else closest(best, result)
            except (
                Exception,
                SystemExit,
            ) as error:  # whatever a library's attack may raise on a model of its users
                count, first = self.failures.get(single.name, (0, error))
                self.failures[single.name] = (count + len(images), first)
                last = error
            if self.progress is not None and task is not None:
                self.progress.advance(task)
        if best is None:
            if isinstance(last, AbsynthError):
                raise last
            raise AbsynthError(
                f"Every attack broke on the model, the last one with {_told(last)}; see that the model "
                "answers any images in [0, 1] with logits."
            ) from last
        return best

    def distances(self, total: int) -> dict[str, Tensor]:
        """What each attack found of all images, without those that broke on some."""
        whole = {name: torch.cat(parts) for name, parts in self.found.items()}
        return {name: distances for name, distances in whole.items() if len(distances) == total}

    def remarks(self, total: int) -> list[str]:
        """A sentence for each attack that broke."""
        return [
            f"The attack '{name}' broke and does not count for {count} of {total} images ({_told(error)})."
            for name, (count, error) in self.failures.items()
        ]


def _told(error: BaseException | None) -> str:
    if error is None or isinstance(error, AbsynthError):
        return str(error).rstrip(".")
    return f"{type(error).__name__}: {first_line(error)}"


def _left_out(single: Attack, reason: str) -> str:
    return f"The attack '{single.name}' was left out: {reason}"


def _wrong_from_the_start(wrong: Mask) -> tuple[str, ...]:
    count, total = int(wrong.sum()), len(wrong)
    if count == 0:
        return ()
    if total == 1:
        remark = "The image is misclassified from the start, so it was not attacked: its distance is 0."
    else:
        remark = (
            f"{count} of {total} images are misclassified from the start, so they were not attacked: their "
            "distance is 0."
        )
    if 2 * count > total:
        remark += " Labels are the true classes, as attacks are untargeted."
    return (remark,)


def closest(first: AttackResult, second: AttackResult) -> AttackResult:
    """The closer adversarial of two results, image by image; passes and seconds of both are added.

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
        backwards=first.backwards + second.backwards,
        remarks=tuple(dict.fromkeys((*first.remarks, *second.remarks))),
        seconds=first.seconds + second.seconds,
    )
