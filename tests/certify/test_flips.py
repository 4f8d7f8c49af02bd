"""The search for the cheapest flips against all sets of flips: bounds, decisions and answers."""

from __future__ import annotations

import itertools
import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from absynth.certify.contest import Contest, Pool
from absynth.certify.covering import Covering, Node
from absynth.certify.flips import FlipSearch
from absynth.certify.sums import STEPS, cheapest_sum

PIXELS = 9
EVERY = np.array(list(itertools.product((False, True), repeat=PIXELS)))
"""All sets of flips."""


class Constraints(Contest):
    """Random constraints, as the contest of a rival has them, of a black image."""

    def __init__(self, seed: int, count: int) -> None:
        generator = np.random.default_rng(seed)
        gains = generator.uniform(-0.5, 2, (count, PIXELS)).round(1)
        margins = gains.clip(0).sum(1) * generator.uniform(0.1, 0.6, count)
        field = SimpleNamespace(batch=SimpleNamespace(seen=torch.zeros(1, PIXELS)), start=0, slack=0.0)
        meets = (gains @ EVERY.T >= margins[:, None]).all(0)
        for name, value in {"gains": gains, "wanted": margins, "field": field, "meets": meets}.items():
            object.__setattr__(self, name, value)

    def pool(self, rows: Any) -> Pool:
        return Pool(rows, self.gains[rows], self.wanted[rows], self.wanted[rows])

    def missed(self, step: Any, rows: Any, enough: float) -> Any:
        behind = self.wanted - self.gains @ step
        return np.setdiff1d(np.flatnonzero(behind > -enough), rows)[:2]

    def fools(self, step: Any) -> bool:
        return bool((self.gains @ step >= self.wanted).all())


def searching(some: Constraints, costs: Any, best: float, tolerance: float | None, power: int) -> FlipSearch:
    end = time.monotonic() + 60
    return FlipSearch(Covering(some, costs), best, tolerance, power, some.fools, end)


def nodes(seed: int) -> Any:
    generator = np.random.default_rng(seed)
    for _ in range(10):
        drawn = generator.random(PIXELS)
        node = Node(drawn < 0.6, drawn > 0.9)
        yield node, (EVERY[:, ~node.open] == node.flipped[~node.open]).all(1)


@pytest.mark.parametrize("seed", range(6))
def test_any_multipliers_prove_a_bound_and_the_best_ones_a_good_one(seed: int) -> None:
    some, generator = Constraints(seed, 4), np.random.default_rng(seed)
    costs = generator.random(PIXELS)
    covering = Covering(some, costs)
    covering.add(np.array([index for index in range(4) if index != 0]))
    for node, inside in nodes(seed):
        truth = (EVERY @ costs)[inside & some.meets].min(initial=math.inf)
        for scale in (0.0, 0.1, 0.5, 2.0):
            assert covering.proven(node, scale * generator.random(4)) <= truth
        relaxed = covering.relax(node, 100.0)
        assert relaxed.total <= truth
        whole = covering.decide_whole(node, relaxed, math.inf)[1].total
        assert relaxed.total <= whole <= truth
        if math.isfinite(truth):
            assert covering.proven(node, relaxed.weights) == pytest.approx(relaxed.flips @ costs, abs=1e-6)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_no_better_answer_is_decided_away(seed: int, whole: bool) -> None:
    some, generator = Constraints(seed, 4), np.random.default_rng(seed)
    costs = generator.random(PIXELS)
    fixed = 0
    for node, inside in nodes(seed + 10):
        reachable = inside & some.meets
        if not reachable.any():
            continue
        cutoff = float((EVERY @ costs)[reachable].min()) + 0.05
        covering = Covering(some, costs)
        covering.add(np.array([1, 2, 3]))
        relaxed = covering.relax(node, cutoff)
        if whole:
            decided, _ = covering.decide_whole(node, relaxed, cutoff)
        else:
            decided = covering.decide(node, relaxed.weights, cutoff)
        fixed += int(node.open.sum() - decided.open.sum())
        left = (EVERY[:, ~decided.open] == decided.flipped[~decided.open]).all(1)
        assert (left | ~(reachable & (EVERY @ costs <= cutoff))).all()
    assert fixed > 0


@pytest.mark.parametrize("seed", range(10))
def test_a_table_says_what_flips_cost_that_sum_to_enough(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pulls, costs = generator.uniform(-0.3, 1, PIXELS), generator.random(PIXELS).round(1)
    # What pulls the other way is not counted, which can only make a bound smaller.
    sums, at_most, spent = EVERY @ pulls, EVERY @ pulls.clip(0), EVERY @ costs
    for wanted in (-1.0, 0.0, 0.01, 0.5, 2.0, float(pulls.clip(0).sum()), 10.0):
        found = cheapest_sum(pulls, costs, wanted)
        # Each pixel may be rounded up by a step.
        nearly = wanted * (1 - PIXELS / STEPS) if wanted > 0 else wanted
        for said, flips in (
            (found.least, np.ones(len(EVERY), dtype=bool)),
            *((found.within[pixel], EVERY[:, pixel]) for pixel in range(PIXELS)),
            *((found.without[pixel], ~EVERY[:, pixel]) for pixel in range(PIXELS)),
        ):
            truth = spent[flips & (sums >= wanted)].min(initial=math.inf)
            assert said <= truth + 1e-12
            if wanted > 0 and math.isfinite(said):
                assert said >= spent[flips & (at_most >= nearly)].min() - 1e-12


@pytest.mark.parametrize("kind", ["l0", "l1", "l2"])
@pytest.mark.parametrize("seed", range(8))
def test_the_answer_is_the_cheapest_of_all_flips(kind: str, seed: int) -> None:
    some = Constraints(seed, 5)
    costs = np.ones(PIXELS) if kind == "l0" else np.random.default_rng(seed).random(PIXELS)
    power, tolerance = (2, 1e-5) if kind == "l2" else (1, None if kind == "l0" else 1e-5)
    truth = (EVERY @ costs)[some.meets].min(initial=math.inf)
    search = searching(some, costs, costs.sum() + 1, tolerance, power)
    proven = search.run(np.ones(PIXELS, dtype=bool))
    assert proven <= truth + 1e-9
    if math.isinf(truth):
        assert search.found is None and proven > costs.sum()
        return
    assert search.found is not None and search.best == pytest.approx(truth)
    assert math.ceil(proven) == truth if kind == "l0" else proven == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_flips_that_are_for_nothing_are_found_or_proven_impossible(seed: int) -> None:
    some = Constraints(seed, 5)
    for count in range(1, PIXELS + 1):
        allowed = np.arange(PIXELS) < count
        possible = (some.meets & ~EVERY[:, ~allowed].any(1)).any()
        search = searching(some, np.zeros(PIXELS), 1.0, None, 1)
        proven = search.run(allowed)
        assert (search.found is not None) == possible
        assert possible or proven > 0


def test_without_time_the_bound_is_that_of_the_start() -> None:
    some = Constraints(0, 5)
    search = searching(some, np.ones(PIXELS), PIXELS + 1.0, None, 1)
    search.end = 0.0
    proven = search.run(np.ones(PIXELS, dtype=bool))
    assert 0 < proven <= EVERY[some.meets].sum(1).min()


def test_flips_that_may_be_a_tie_count_as_lost_whatever_the_model_says() -> None:
    some = Constraints(0, 5)
    truth = EVERY[some.meets].sum(1).min()
    costs = np.ones(PIXELS)
    search = searching(some, costs, PIXELS + 1.0, None, 1)
    search.fools = lambda step: False
    assert math.ceil(search.run(np.ones(PIXELS, dtype=bool))) == truth and search.found is None


def test_a_bound_that_is_too_large_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Covering.proven
    monkeypatch.setattr(Covering, "proven", lambda self, node, weights: right(self, node, weights) + 0.2)
    with pytest.raises(AssertionError):
        test_any_multipliers_prove_a_bound_and_the_best_ones_a_good_one(0)
    with pytest.raises(AssertionError):
        for seed in range(6):
            test_no_better_answer_is_decided_away(seed, whole=False)
