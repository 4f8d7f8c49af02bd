"""Figure 2: what is drawn is the fraction of images it claims to be, and bounds stay on their side."""

import json
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.paper import PAPER
from absynth.report.curves import (
    attack_curve,
    certified_curve,
    contradictions,
    curves_section,
    proven,
    read_reference,
)
from absynth.report.drawing import drawing_style
from absynth.report.results import read_results

SIZES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, torch.inf])


@given(st.lists(SIZES, min_size=1, max_size=9), st.floats(0.01, 1.99))
def test_the_attack_curve_is_the_fraction_not_fooled(found, size):
    curve = attack_curve(torch.tensor(found, dtype=torch.float64), 2.0)
    at = max(place for place, start in enumerate(curve.sizes) if start <= size)
    assert curve.accuracies[at] == pytest.approx(sum(one > size for one in found) / len(found))


@given(st.lists(SIZES, min_size=1, max_size=9), st.floats(0.01, 1.99))
def test_the_certified_curve_is_the_fraction_proven(radii, size):
    curve = certified_curve(torch.tensor(radii, dtype=torch.float64), 2.0)
    at = min(place for place, end in enumerate(curve.sizes) if end >= size)
    assert curve.accuracies[at] == pytest.approx(sum(one >= size for one in radii) / len(radii))


def certificates(radii, method="pairwise", first=0):
    return [
        CertificateRecord(first + index, 7, 7, "l2", radius, method, False)
        for index, radius in enumerate(radii)
    ]


BELOW = (0.0, 1.0, 1.25, 1.5, 2.0, 2.25, 2.5, 2.75)
"""Below the distances found for abs in L2."""


def section(results, proofs, reference=None):
    return curves_section("figure-2", "Figure 2", results, proofs, reference or {})


def axes_of(made, norm="l2"):
    (panel,) = (panel for panel in made.panels if panel.name == f"figure-2-{norm}")
    return panel.figure.axes[0]


def test_lines_and_marks_are_the_records(small_results):
    axes = axes_of(section(read_results(small_results.folder), {}))
    lines = [line for line in axes.lines if len(line.get_xdata())]
    found = torch.tensor(small_results.distances["abs", "l2", "ddn"], dtype=torch.float64)
    curve = attack_curve(found, 4.0)
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]
    assert (curve.sizes, [100 * value for value in curve.accuracies]) in drawn
    figures = PAPER["abs"]["l2"].accuracies
    assert (list(figures), [100 * value for value in figures.values()]) in drawn


def test_the_band_lies_between_proof_and_attack(small_results):
    results = read_results(small_results.folder)
    made = section(results, {"abs": certificates(BELOW)})
    assert made.remarks == ()
    axes = axes_of(made)
    (band,) = (one for one in axes.collections if one.get_hatch())
    found = torch.tensor(small_results.distances["abs", "l2", "ddn"], dtype=torch.float64)
    radii = torch.tensor(BELOW, dtype=torch.float64)
    path = band.get_paths()[0]
    for size in (0.6, 1.1, 1.6, 2.1, 2.6, 2.9):
        heights = [(radii >= size).double().mean() * 100, (found > size).double().mean() * 100]
        assert heights[0] <= heights[1]
        for height in (0.5, 20, 40, 60, 80, 99):
            inside = bool(heights[0] < height < heights[1])
            assert path.contains_point((size, height)) == inside, (size, height)


def test_the_band_is_of_the_images_that_are_both_attacked_and_certified(small_results):
    results = read_results(small_results.folder)
    made = section(results, {"abs": certificates((0.5, 1.0, 1.25), first=2)})
    (band,) = (one for one in axes_of(made).collections if one.get_hatch())
    found = torch.tensor(small_results.distances["abs", "l2", "ddn"][2:5], dtype=torch.float64)
    path = band.get_paths()[0]
    for size, proven_share in ((0.4, 1.0), (0.8, 2 / 3), (1.1, 1 / 3), (1.6, 0.0), (2.1, 0.0)):
        attacked = float((found > size).double().mean())
        for height in (10, 50, 90):
            assert path.contains_point((size, height)) == (100 * proven_share < height < 100 * attacked)
    (remark,) = made.remarks
    assert "abs, L2: 3 of the 8 attacked images are certified" in remark


def test_other_images_make_no_band(small_results):
    results = read_results(small_results.folder)
    made = section(results, {"abs": certificates(BELOW, first=8)})
    assert not any(one.get_hatch() for one in axes_of(made).collections)
    assert any("none of the attacked images is certified" in remark for remark in made.remarks)


def test_every_model_has_a_band_labelled_with_its_method(small_results):
    results = read_results(small_results.folder)
    proofs = {"abs": certificates(BELOW), "cnn": certificates((0.0, 0.1, 0.2), method="crown")}
    axes = axes_of(section(results, proofs))
    assert sum(bool(one.get_hatch()) for one in axes.collections) == 2
    labels = axes.get_legend_handles_labels()[1]
    assert "abs, certified by pairwise (8)" in labels
    assert "cnn, certified by crown (3)" in labels


def test_the_legend_stays_within_the_panel(small_results):
    results = read_results(small_results.folder)
    long = {
        "certified-binary-abs": certificates(BELOW),
        "abs": certificates(BELOW),
        "cnn": certificates((0.1,)),
    }
    for proofs in ({}, long):
        with drawing_style():
            figure = axes_of(section(results, proofs)).figure
            figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.axes[0].get_window_extent().y0


def test_a_radius_with_a_probability_is_marked_and_makes_no_band_with_another_classifier(small_results):
    results = read_results(small_results.folder)
    # beyond the adversarials of the network itself, which is no contradiction
    records = [replace(one, confidence=0.999) for one in certificates((9.0,) * 8, method="smoothing")]
    made = section(results, {"cnn": records})
    axes = axes_of(made)
    assert not any(one.get_hatch() for one in axes.collections)
    label = "cnn, certified by smoothing, with a probability of 99.9 % (8)"
    assert label in axes.get_legend_handles_labels()[1]
    assert any(line.get_linestyle() == ":" for line in axes.lines)
    (remark,) = made.remarks
    assert "the majority of the model's answers" in remark


def test_the_papers_bound_is_no_proof(small_results):
    estimate = {"abs": certificates(BELOW, method="paper")}
    assert proven(estimate) == {}
    made = section(read_results(small_results.folder), estimate)
    assert not axes_of(made).collections
    assert any("an estimate, not a proof" in remark for remark in made.remarks)


def test_a_radius_beyond_an_adversarial_is_told(small_results):
    results = read_results(small_results.folder)
    assert contradictions(results, {"abs": certificates(BELOW)}) == []
    above = (0.0, 1.5, *BELOW[2:])
    (told,) = contradictions(results, {"abs": certificates(above)})
    assert told.startswith("abs, image 1:")


def test_the_papers_curves_are_dashed(small_results, tmp_path):
    path = tmp_path / "curves.json"
    values = {"distance": [0.0, 1.0], "accuracy": [99.0, 50.0]}
    path.write_text(json.dumps({"L2": {"models": {"Madry et al.": values, "ABS": values}}}))
    reference = read_reference(path)
    assert reference["abs"]["l2"].accuracies == [0.99, 0.5]
    axes = axes_of(section(read_results(small_results.folder), {}, reference))
    assert sum(line.get_linestyle() == "--" for line in axes.lines) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"L7": {}}', '{"L2": {"models": {"ABS": {"distance": [1]}}}}'])
def test_no_curves_is_one_sentence(tmp_path, text):
    path = tmp_path / "curves.json"
    path.write_text(text)
    with pytest.raises(AbsynthError, match=r"curves\.json holds no accuracy-distortion curves"):
        read_reference(path)
