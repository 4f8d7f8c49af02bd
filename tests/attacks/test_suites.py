"""The suites, the front door, and the parts that attacks are made of."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from absynth.attacks import SUITES, AttackResult, attack, closest, find_attack, suite_attacks
from absynth.attacks.adapter import FoolboxAttack, foolbox_class
from absynth.attacks.base import Attack, verify
from absynth.attacks.batch import size
from absynth.attacks.catalog import BUILDERS
from absynth.attacks.projections import project, steepest
from absynth.attacks.target import Target, private_randomness, temper
from absynth.errors import AbsynthError
from absynth.norms import NORMS, Norm
from absynth.progress import Progress

SIDE = 5


def make_model() -> nn.Sequential:
    """A small network of random weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("suite", "norm"),
    [(suite, norm) for suite in SUITES for norm in NORMS if (suite, norm) != ("paper", "l1")],
)
def test_attacks_can_be_named_and_recorded(suite: str, norm: Norm) -> None:
    attacks = suite_attacks(suite, norm)
    assert len({single.name for single in attacks}) == len(attacks)
    for single in attacks:
        assert single.norm == norm
        assert json.loads(json.dumps(single.settings)) == single.settings
        assert find_attack(single.name, norm, suite).settings == single.settings


def test_attacks_as_foolbox_runs_them() -> None:
    """They fool the same images as ours, without a pull to the boundary."""
    model, images = make_model(), torch.rand(4, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    for norm in NORMS:
        every = suite_attacks("every", norm)
        assert {one.name for one in every} >= {
            one.name for suite in ("strong", "extra") for one in suite_attacks(suite, norm)
        }
        for single in every:
            if single.name in PUBLISHED - {"ead"}:
                result = single(model, images, labels)
                assert result.success.any(), (norm, single.name)
                assert (result.queries <= 500).all()
                assert (result.backwards > 0).all()


def test_strong_has_all_attacks_of_quick() -> None:
    for norm in NORMS:
        quick, strong = suite_attacks("quick", norm), suite_attacks("strong", norm)
        assert [single.name for single in quick] == [single.name for single in strong][: len(quick)]


FURTHER = {"brendel-bethge", "sparse-brendel-bethge", "auto-attack", "exact", "corner-search"}
"""What needs further packages, prototypes, or tens of thousands of queries an image."""

PUBLISHED = {"foolbox-ddn", "foolbox-fmn", "foolbox-deepfool", "newtonfool", "ead"}
"""What is there to compare with."""


def test_broad_has_every_kind_of_attack_but_what_needs_more() -> None:
    for norm in NORMS:
        broad = {single.name for single in suite_attacks("broad", norm)}
        assert broad >= {single.name for single in suite_attacks("quick", norm)}
        missing = {
            single.name
            for suite in SUITES
            if (suite, norm) != ("paper", "l1")
            for single in suite_attacks(suite, norm)
        } - broad
        assert all(name in FURTHER | PUBLISHED or name.endswith("-estimated") for name in missing)


PAPER_ROWS: dict[str, set[str]] = {
    "l2": {
        "transfer",
        "gaussian-noise",
        "boundary",
        "pointwise",
        "fgm",
        "fgm-estimated",
        "deepfool",
        "deepfool-estimated",
        "bim",
        "bim-estimated",
        "latent-descent",
    },
    "linf": {
        "transfer",
        "fgsm",
        "fgsm-estimated",
        "deepfool",
        "deepfool-estimated",
        "bim",
        "bim-estimated",
        "mim",
        "mim-estimated",
    },
    "l0": {"salt-and-pepper", "pointwise"},
}


@pytest.mark.parametrize("norm", PAPER_ROWS)
def test_paper_has_every_row_of_the_table(norm: Norm) -> None:
    attacks = suite_attacks("paper", norm)
    assert {single.name for single in attacks} == PAPER_ROWS[norm]
    assert norm == "linf" or find_attack("pointwise", norm, "paper").settings["repetitions"] == 10


class NeedsGradients(Attack):
    """Applies to nothing."""

    name, norm = "needs-gradients", "l2"

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def applies_to(self, model: nn.Module) -> bool:
        return False

    def run(self, target: Target, images: Tensor) -> Tensor:
        raise AssertionError


def test_an_attack_that_does_not_apply_says_so_alone_and_is_left_out_of_a_suite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = make_model(), torch.rand(2, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    with pytest.raises(AbsynthError, match="'needs-gradients' uses what a Sequential does not have"):
        NeedsGradients()(model, images, labels)
    fgm = find_attack("fgm", "l2", "quick")
    monkeypatch.setitem(BUILDERS, "quick", lambda norm: (NeedsGradients(), fgm))
    found = attack(model, images, labels, suite="quick")
    assert torch.equal(found.distances, fgm(model, images, labels).distances)
    monkeypatch.setitem(BUILDERS, "quick", lambda norm: (NeedsGradients(),))
    with pytest.raises(AbsynthError, match="No attack of the suite 'quick' for l2 applies to a Sequential"):
        attack(model, images, labels, suite="quick")


@pytest.mark.parametrize("norm", NORMS)
def test_the_suite_keeps_the_closest(norm: Norm, progress: Progress) -> None:
    model, images = make_model(), torch.rand(5, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    whole = attack(model, images, labels, norm=norm.upper(), suite="Quick", seed=2, progress=progress)
    singles = [single(model, images, labels, seed=2) for single in suite_attacks("quick", norm)]
    assert torch.equal(whole.distances, torch.stack([single.distances for single in singles]).amin(dim=0))
    assert torch.equal(whole.queries, torch.stack([single.queries for single in singles]).sum(dim=0))
    assert torch.equal(model(whole.adversarials).argmax(dim=1) != labels, whole.success)
    assert progress.finished


def test_batches_are_put_together_in_order() -> None:
    model, images = make_model(), torch.rand(5, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    result = attack(model, images, labels.int(), norm="l0", suite="quick", batch_size=2)
    assert len(result) == 5
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"norm": "l3"}, "no norm 'l3'"),
        ({"suite": "weak"}, "no suite 'weak'"),
        ({"suite": "paper", "norm": "l1"}, "no attacks for l1"),
        ({"suite": "None"}, "no suite 'None'"),
        ({"suite": ["ddn"]}, "no suite"),
        ({"batch_size": 0}, "batch size is 0; it must be at least 1"),
        ({"batch_size": 2.0}, "batch size is 2.0, a float"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be at most"),
        ({"seed": 1.5}, "seed is 1.5, a float; give a whole number"),
        ({"seed": None}, "seed is None"),
        ({"seed": "a"}, "seed is 'a', a str"),
        ({"draws": 2.5}, "number of draws is 2.5"),
        ({"grid": "a"}, "grid .255 for 8 bits. is 'a'"),
        ({"grid": True}, "is True, a bool"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(AbsynthError, match=sentence):
        attack(make_model(), torch.rand(1, 1, SIDE, SIDE), torch.tensor([0]), **arguments)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_any_type_are_seeds(kind: Callable[[int], Any]) -> None:
    model, images = make_model(), torch.rand(2, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    state = np.random.get_state()
    expected = attack(model, images, labels, suite="quick", seed=3, grid=255)
    found = attack(model, images, labels, suite="quick", seed=kind(3), grid=kind(255), batch_size=kind(100))
    assert torch.equal(found.adversarials, expected.adversarials)
    single = find_attack("gaussian-noise", "l2", "quick")
    assert torch.equal(
        single(model, images, labels, kind(3)).queries, single(model, images, labels, 3).queries
    )
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))


@pytest.mark.parametrize("seed", [None, 1.5, "a", -1])
def test_a_seed_that_is_none_leaves_the_generators_alone(seed: Any) -> None:
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    with pytest.raises(AbsynthError, match="The seed is"), private_randomness(seed, torch.device("cpu")):
        pass
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_threads_draw_one_after_the_other() -> None:
    device, start = torch.device("cpu"), torch.get_rng_state()

    def draw(seed: int) -> list[float]:
        with private_randomness(seed, device):
            drawn = []
            for _ in range(20):
                drawn += [float(torch.rand(())), np.random.rand(), random.random()]
                time.sleep(1e-4)
            return drawn

    expected = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, range(4))) == expected
    assert torch.equal(torch.get_rng_state(), start)


def test_an_unknown_attack() -> None:
    with pytest.raises(
        AbsynthError, match="choose one of salt-and-pepper, pointwise, fmn, threshold, sparse-search"
    ):
        find_attack("ddn", "l0")


def test_the_closer_of_two_results() -> None:
    def result(*distances: float) -> AttackResult:
        values = torch.tensor(distances, dtype=torch.float64)
        images = values.nan_to_num(posinf=9.0).float()[:, None, None, None]
        ones = torch.ones(len(values), dtype=torch.int64)
        return AttackResult(images, values, values.isfinite(), ones, 2 * ones, seconds=1.5)

    inf = float("inf")
    best = closest(result(1, 2, inf, inf), result(2, 1, 3, inf))
    assert best.distances.tolist() == [1, 1, 3, inf]
    assert best.adversarials.flatten().tolist() == [1, 1, 3, 9]
    assert best.success.tolist() == [True, True, True, False]
    assert best.queries.tolist() == [2, 2, 2, 2]
    assert best.backwards.tolist() == [4, 4, 4, 4]
    assert best.seconds == 3.0


def test_foolbox_attacks_of_fixed_size_try_sizes_in_order() -> None:
    model, images = make_model(), torch.rand(4, 1, SIDE, SIDE)
    labels = model(images).argmax(dim=1)
    noise = FoolboxAttack(
        "noise",
        "l2",
        foolbox_class("L2RepeatedAdditiveGaussianNoiseAttack", repeats=5),
        epsilons=(5.0, 0.1, 2.0),
    )
    result = noise(model, images, labels)
    assert result.success.any()
    assert torch.equal(model(result.adversarials).argmax(dim=1) != labels, result.success)
    assert noise.settings["epsilons"] == [5.0, 0.1, 2.0]


class Careless(Attack):
    """Returns what no attack should: values outside the box, NaN, and clean images."""

    name, norm = "careless", "linf"

    @property
    def settings(self) -> dict[str, object]:
        return {}

    def run(self, target: Target, images: Tensor) -> Tensor:
        candidates = images.clone()
        candidates[0], candidates[1] = 7.0, float("nan")
        return candidates


class Bright(nn.Module):
    """Class 1 above a mean of one half, class 0 below or at it."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.5), mean], dim=1)


def test_only_what_the_model_confirms_is_kept() -> None:
    images = torch.full((3, 1, 2, 2), 0.25)
    result = Careless()(Bright(), images, torch.zeros(3, dtype=torch.int64))
    assert result.success.tolist() == [True, False, False]
    assert result.distances.tolist() == [0.75, float("inf"), float("inf")]
    assert torch.equal(result.adversarials[1:], images[1:])


def test_an_image_on_the_boundary_itself_is_pushed_over_it() -> None:
    images = torch.full((1, 1, 2, 2), 0.25)
    target = Target(Bright(), torch.zeros(1, dtype=torch.int64))
    adversarials, found = verify(target, images, torch.full((1, 1, 2, 2), 0.5))
    assert found.all()
    torch.testing.assert_close(adversarials, torch.full((1, 1, 2, 2), 0.5), rtol=1e-3, atol=0)


@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS), radius=st.floats(0, 8))
def test_projections_are_inside_idempotent_and_nearest(seed: int, norm: Norm, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    perturbations = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
    epsilon = torch.full((3,), radius, dtype=torch.float64)
    projected = project(perturbations, epsilon, norm)
    assert (size(projected, norm) <= epsilon + 1e-9).all()
    torch.testing.assert_close(project(projected, epsilon, norm), projected)
    inside = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
    inside = project(inside, epsilon * torch.rand(3, generator=generator).double(), norm)
    assert (size(perturbations - projected, "l2") <= size(perturbations - inside, "l2") + 1e-9).all()


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_the_steepest_direction_has_size_one(norm: Norm) -> None:
    gradients, images = torch.randn(4, 1, 10, 10), torch.rand(4, 1, 10, 10)
    torch.testing.assert_close(size(steepest(gradients, images, norm), norm), torch.ones(4))
    assert (steepest(torch.zeros_like(images), images, norm) == 0).all()


def test_queries_of_a_selection_count_for_the_images_selected() -> None:
    target = Target(Bright(), torch.zeros(4, dtype=torch.int64))
    part = target.select(torch.tensor([1, 3, 3])).select(torch.tensor([True, False, True]))
    part.is_adversarial(torch.rand(2, 1, 2, 2))
    assert target.queries.tolist() == [0, 1, 0, 1]


def test_tempered_logits_keep_order_and_are_finite() -> None:
    logits = torch.tensor([[1e8, -1e8, float("-inf")], [0.3, 0.2, 0.1]])
    tempered = temper(logits)
    assert torch.equal(tempered.argsort(dim=1), logits.argsort(dim=1))
    assert not tempered.isnan().any()
    assert torch.equal(tempered[1], logits[1])
