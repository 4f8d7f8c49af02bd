"""Which attacks the named suites consist of, and with which settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import nn

from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.auto_attack import AutoAttack
from absynth.attacks.base import Attack
from absynth.attacks.brendel_bethge import BrendelBethge
from absynth.attacks.callable import Callable as Own
from absynth.attacks.corners import CornerSearch
from absynth.attacks.exact import ExactSearch
from absynth.attacks.fast_minimum_norm import FastMinimumNorm
from absynth.attacks.gradient_descent import FastGradient, ProjectedGradient
from absynth.attacks.gradient_estimation import WithEstimatedGradient
from absynth.attacks.latent_descent import LatentDescent
from absynth.attacks.noise import NoiseAttack
from absynth.attacks.pointwise import Pointwise
from absynth.attacks.sparse import SparseSearch
from absynth.attacks.threshold import Threshold
from absynth.attacks.transfer import Transfer
from absynth.norms import Norm

Suite = Literal["quick", "broad", "strong", "paper", "extra", "every"]
SUITES: tuple[Suite, ...] = get_args(Suite)
SUBSTITUTE = "cnn"
"""The model of the zoo that transfer attacks are made on."""


def _foolbox(
    name: str,
    norm: Norm,
    kind: str,
    needs_start: bool = False,
    patience: int | None = None,
    **parameters: Any,
) -> FoolboxAttack:
    return FoolboxAttack(
        name=name,
        norm=norm,
        make=foolbox_class(kind, **parameters),
        parameters={"foolbox": kind, **parameters},
        needs_start=needs_start,
        patience=patience,
    )


def _published(name: str, norm: Norm, kind: str, **parameters: Any) -> Own:
    """A foolbox attack as foolbox runs it: with the model's own logits, and no pull to the boundary."""
    make = foolbox_class(kind, **parameters)

    def attack(model: nn.Module) -> Any:
        return make()

    return Own(attack, norm, name, parameters={"foolbox": kind, **parameters})


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


def _deepfool(norm: Norm, strong: bool) -> FoolboxAttack:
    return _foolbox(
        "deepfool",
        norm,
        "L2DeepFoolAttack" if norm == "l2" else "LinfDeepFoolAttack",
        steps=50 if strong else 10,
        candidates=10 if strong else 4,
    )


def _boundary(strong: bool) -> FoolboxAttack:
    return _foolbox(
        "boundary",
        "l2",
        "BoundaryAttack",
        needs_start=True,
        # its step sizes take 1000 steps to suit an image, which may look finished before
        patience=1500 if strong else None,
        steps=5000 if strong else 200,
        spherical_step=0.1,
        source_step=0.01,
    )


def _hop_skip_jump(norm: Norm, strong: bool = True) -> FoolboxAttack:
    return _foolbox(
        "hop-skip-jump",
        norm,
        "HopSkipJumpAttack",
        needs_start=True,
        constraint=norm,
        steps=20 if strong else 3,
        initial_gradient_eval_steps=100 if strong else 20,
        max_gradient_eval_steps=1000 if strong else 50,
    )


def _carlini_wagner(strong: bool) -> FoolboxAttack:
    # it may not abort early: its change of variables is flat at pixels of 0 and 1, so it starts slowly
    return _foolbox(
        "carlini-wagner",
        "l2",
        "L2CarliniWagnerAttack",
        binary_search_steps=6 if strong else 2,
        steps=200 if strong else 40,
        stepsize=0.05,
        initial_const=1.0 if strong else 10.0,
        abort_early=False,
    )


def _momentum(strong: bool) -> ProjectedGradient:
    steps, runs = (40, 10) if strong else (10, 4)
    return ProjectedGradient("mim", "linf", steps=steps, runs=runs, relative_step=2 / steps, momentum=1.0)


def _l2(strong: bool) -> tuple[Attack, ...]:
    return (
        FastGradient("fgm", "l2"),
        *_iterative("l2", strong),
        _deepfool("l2", strong),
        _foolbox("ddn", "l2", "DDNAttack", steps=200 if strong else 40),
        FastMinimumNorm("fmn", "l2", steps=200 if strong else 40),
        _boundary(strong),
        _pointwise("l2", strong),
        NoiseAttack("gaussian-noise", "l2", "gaussian", draws=200 if strong else 20),
    )


def _linf(strong: bool) -> tuple[Attack, ...]:
    return (
        FastGradient("fgsm", "linf"),
        *_iterative("linf", strong),
        _momentum(strong),
        _deepfool("linf", strong),
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
    quick_queries = 200 if norm == "l0" else 100
    return Pointwise(
        "pointwise",
        norm,
        repetitions=10 if strong else 1,
        exchanges=300 if strong else 150,
        max_queries=2000 if strong else quick_queries,
    )


def _common(norm: Norm, strong: bool) -> tuple[Attack, ...]:
    builders: dict[Norm, Callable[[bool], tuple[Attack, ...]]] = {
        "l2": _l2,
        "linf": _linf,
        "l1": _l1,
        "l0": _l0,
    }
    return builders[norm](strong)


def _quick(norm: Norm) -> tuple[Attack, ...]:
    return _common(norm, strong=False)


def _broad(norm: Norm) -> tuple[Attack, ...]:
    more: list[Attack] = [Threshold("threshold", norm, steps=10, rivals=1, max_queries=40)]
    if norm in ("l2", "linf"):
        single = FastGradient("fgm" if norm == "l2" else "fgsm", norm)
        more += [
            LatentDescent("latent-descent", norm, step=0.05, steps=40, bisections=8),
            _hop_skip_jump(norm, strong=False),
            Transfer("transfer", norm, SUBSTITUTE, (single, _iterative(norm, strong=False)[0])),
            WithEstimatedGradient(single, samples=20),
        ]
    if norm == "l2":
        more.append(_carlini_wagner(strong=False))
    if norm == "l0":
        more.append(SparseSearch("sparse-search", queries=300, thinning=100, start_queries=100))
    return (*_quick(norm), *more)


def _strong(norm: Norm) -> tuple[Attack, ...]:
    more: list[Attack] = [Threshold("threshold", norm)]
    if norm in ("l2", "linf"):
        more.append(LatentDescent("latent-descent", norm))
    if norm == "l2":
        more.append(_carlini_wagner(strong=True))
    if norm == "l0":
        more.append(SparseSearch("sparse-search"))
    return (*_common(norm, strong=True), *more)


def _paper(norm: Norm) -> tuple[Attack, ...]:
    if norm == "l1":
        return ()
    if norm == "l0":
        noise, pointwise, _ = _common("l0", strong=True)
        return noise, pointwise
    iterative: list[Attack] = [_iterative(norm, strong=True)[0]]
    estimated: list[Attack] = [_iterative(norm, strong=False)[0]]
    if norm == "linf":
        iterative.append(_momentum(strong=True))
        estimated.append(_momentum(strong=False))
    single = FastGradient("fgm" if norm == "l2" else "fgsm", norm)
    own: list[Attack] = [single, _deepfool(norm, strong=True), *iterative]
    by_decisions: list[Attack] = []
    if norm == "l2":
        by_decisions += [
            NoiseAttack("gaussian-noise", "l2", "gaussian", draws=200),
            _boundary(strong=True),
            _pointwise("l2", strong=True),
            LatentDescent("latent-descent", "l2", step=0.01, steps=300),
        ]
    return (
        Transfer("transfer", norm, SUBSTITUTE, tuple(own)),
        *by_decisions,
        *own,
        # few gradients are worth all the queries of an exact one; DeepFool steps too short on a rough one
        WithEstimatedGradient(single, method="coordinates"),
        WithEstimatedGradient(_deepfool(norm, strong=False), method="coordinates"),
        *(WithEstimatedGradient(one) for one in estimated),
    )


def _extra(norm: Norm) -> tuple[Attack, ...]:
    attacks: list[Attack] = [BrendelBethge("brendel-bethge", norm)]
    if norm != "l0":
        attacks += [AutoAttack("auto-attack", norm), ExactSearch("exact", norm)]
    if norm in ("l2", "linf"):
        attacks.append(_hop_skip_jump(norm))
    if norm in ("l2", "l1"):
        few_pixels = SparseSearch("sparse-search")
        attacks.append(BrendelBethge("sparse-brendel-bethge", norm, start=few_pixels, repetitions=5))
    if norm == "l0":
        attacks.append(CornerSearch("corner-search"))
    return tuple(attacks)


def _every(norm: Norm) -> tuple[Attack, ...]:
    kinds: dict[Norm, tuple[tuple[str, str, dict[str, Any]], ...]] = {
        "l2": (
            ("foolbox-ddn", "DDNAttack", {"steps": 200}),
            ("foolbox-fmn", "L2FMNAttack", {"steps": 200}),
            ("foolbox-deepfool", "L2DeepFoolAttack", {}),
            ("newtonfool", "NewtonFoolAttack", {"steps": 200}),
        ),
        "linf": (
            ("foolbox-fmn", "LInfFMNAttack", {"steps": 200}),
            ("foolbox-deepfool", "LinfDeepFoolAttack", {}),
        ),
        "l1": (
            ("foolbox-fmn", "L1FMNAttack", {"steps": 200}),
            ("ead", "EADAttack", {"binary_search_steps": 6, "steps": 300, "decision_rule": "L1"}),
        ),
        "l0": (("foolbox-fmn", "L0FMNAttack", {"steps": 200}),),
    }
    published = (_published(name, norm, kind, **parameters) for name, kind, parameters in kinds[norm])
    return (*_strong(norm), *_extra(norm), *published)


BUILDERS: dict[Suite, Callable[[Norm], tuple[Attack, ...]]] = {
    "quick": _quick,
    "broad": _broad,
    "strong": _strong,
    "paper": _paper,
    "extra": _extra,
    "every": _every,
}
