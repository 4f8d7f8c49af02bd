"""Attacks of other libraries for ``absynth bench --attack l2=docs/tools/attacks/libraries.py:alma_l2``.

Those that minimise their perturbation, with 1,000 steps or as many as they need. They take
adversarial-library (``pip install adv-lib``), torchattacks (``pip install --no-deps torchattacks``) or ART
(``pip install adversarial-robustness-toolbox``), each imported when its attack is first run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
INFINITY = float("inf")


def _adv_lib(name: str, **settings: Any) -> Attack:
    """A function of adversarial-library with its settings."""

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        function = getattr(import_module("adv_lib.attacks"), name)
        return function(model, images, labels, **settings)

    return attack


def _torchattacks(name: str, **settings: Any) -> Callable[[nn.Module], Any]:
    """A class of torchattacks with its settings, to be made for a model."""

    def make(model: nn.Module) -> Any:
        return getattr(import_module("torchattacks"), name)(model, **settings)

    return make


def _art(name: str, **settings: Any) -> Callable[[nn.Module], Any]:
    """A class of ART with its settings, around the estimator that it needs."""

    def make(model: nn.Module) -> Any:
        wrapped = import_module("art.estimators.classification").PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0.0, 1.0),
        )
        return getattr(import_module("art.attacks.evasion"), name)(wrapped, verbose=False, **settings)

    return make


alma_l1 = _adv_lib("alma", distance="l1", num_steps=1000)
alma_l2 = _adv_lib("alma", distance="l2", num_steps=1000)
cw_l2 = _adv_lib("carlini_wagner_l2", max_iterations=1000)
cw_linf = _adv_lib("carlini_wagner_linf", max_iterations=100)
ddn_l2 = _adv_lib("ddn", steps=1000)
fab_l1 = _adv_lib("fab", norm=1, n_iter=500)
fab_l2 = _adv_lib("fab", norm=2, n_iter=500)
fab_linf = _adv_lib("fab", norm=INFINITY, n_iter=500)
fmn_l0 = _adv_lib("fmn", norm=0, steps=1000)
fmn_l1 = _adv_lib("fmn", norm=1, steps=1000)
fmn_l2 = _adv_lib("fmn", norm=2, steps=1000)
fmn_linf = _adv_lib("fmn", norm=INFINITY, steps=1000)
pdgd_l2 = _adv_lib("pdgd", num_steps=1000)
pdpgd_l0 = _adv_lib("pdpgd", norm=0, num_steps=1000)
pdpgd_l1 = _adv_lib("pdpgd", norm=1, num_steps=1000)
pdpgd_l2 = _adv_lib("pdpgd", norm=2, num_steps=1000)
pdpgd_linf = _adv_lib("pdpgd", norm=INFINITY, num_steps=1000)
sigma_zero_l0 = _adv_lib("sigma_zero", num_steps=1000)
superdeepfool_l2 = _adv_lib("sdf")
vfga_l0 = _adv_lib("vfga", targeted=False)
ead_l1 = _torchattacks("EADL1", max_iterations=500)
sparsefool_l0 = _torchattacks("SparseFool")
hop_skip_jump_l2 = _art("HopSkipJump", norm=2)
hop_skip_jump_linf = _art("HopSkipJump", norm="inf")
