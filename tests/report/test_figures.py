"""The figures of images: chosen by their rule, and the figures in them true."""

import math
from collections import Counter

import pytest
import torch

import absynth
from absynth.errors import AbsynthError
from absynth.evaluate.tasks import weights_hash
from absynth.inference.decision import probabilities
from absynth.report.figures import confidence
from absynth.report.figures.adversarials import (
    one_of_each_class,
    originals,
    pixels_section,
    quarters,
    smallest_section,
)
from absynth.report.figures.confidence import area_under_curve, confidence_section
from absynth.report.figures.latents import latents_section, samples, walks
from absynth.report.figures.synthesis import explain, synthesis_section
from absynth.report.results import read_results
from absynth.report.tables import format_distance


def texts(panel) -> list[str]:
    return [text.get_text() for text in panel.figure.axes[0].texts]


def pictures(panel) -> list[torch.Tensor]:
    return [torch.tensor(image.get_array()) for image in panel.figure.axes[0].images]


def test_every_image_of_a_class_is_as_likely():
    labels = {10: 3, 11: 3, 12: 3, 13: 4}
    drawn = Counter(one_of_each_class(labels, seed).indices[3] for seed in range(600))
    assert set(drawn) == {10, 11, 12}
    assert min(drawn.values()) > 150
    chosen = one_of_each_class(labels, 0)
    assert chosen.indices[4] == 13
    assert chosen.indices[0] is None
    assert one_of_each_class(labels | {14: 0}, 0).indices[3] == chosen.indices[3]


def test_figure_3_shows_original_adversarial_and_distance(small_results):
    results = read_results(small_results.folder)
    section = smallest_section("figure-3", "Figure 3", results, 0)
    images, labels = absynth.load_dataset("mnist", "test")
    chosen = one_of_each_class({index: int(labels[index]) for index in range(8)}, 0).indices
    for model, panel in zip(results.models, section.panels, strict=True):
        findings = {finding.record.index: finding for finding in results.smallest(model, "l2")}
        expected, shown = [model], []
        for label in range(10):
            index = chosen[label]
            if index is None:
                expected.append(f"no image of\nclass {label}")
                continue
            distance = findings[index].record.distance
            shown.append(images[index, 0])
            if distance == 0 or math.isinf(distance):
                expected.append("misclassified" if distance == 0 else "none found")
            else:
                expected.append(format_distance(distance, "l2"))
                adversarial = results.adversarial(findings[index])
                shown += [adversarial, adversarial - images[index, 0]]
        assert texts(panel) == expected
        assert all(torch.equal(*pair) for pair in zip(pictures(panel), shown, strict=True))


def test_quarters_are_quarters_of_the_fooled(small_results):
    findings = read_results(small_results.folder).smallest("abs", "l0")
    chosen = [[finding.record.distance for finding in part] for part in quarters(findings, 1)]
    # 10 to 15 pixels: six images, cut after 2, 3 and 4 (halves go to the even number)
    assert chosen == [[10.0, 11.0], [12.0], [13.0], [14.0, 15.0]]


def test_figure_5_names_the_pixels(small_results):
    results = read_results(small_results.folder)
    section = pixels_section("figure-5", "Figure 5", results, 1)
    numbers = [text for text in texts(section.panels[1]) if text.isdigit()]
    assert numbers == ["10", "11", "12", "13", "14", "15"]
    assert len(pictures(section.panels[1])) == 2 * 6


def test_a_norm_without_attacks_is_left_out(put_records, tmp_path):
    put_records(tmp_path, "abs", "linf", "bim", (1.0,) * 8)
    results = read_results(tmp_path)
    with pytest.raises(AbsynthError, match="no attack in L2 is recorded"):
        smallest_section("figure-3", "Figure 3", results, 0)
    with pytest.raises(AbsynthError, match="no attack in L0 is recorded"):
        pixels_section("figure-5", "Figure 5", results, 0)


def test_another_data_set_is_noticed(put_records, tmp_path):
    put_records(tmp_path, "abs", "l2", "ddn", (1.0,) * 8, dataset="fashion")
    with pytest.raises(AbsynthError):
        originals(read_results(tmp_path))


def test_the_explanation_is_the_inference(small_abs, make_images):
    image = make_images(1)
    explanation = explain(small_abs, image)
    expected = small_abs.infer(image)
    assert explanation.lengths == (0, 1, 2, 3)
    assert torch.allclose(explanation.losses[-1], expected.losses[0], rtol=1e-5)
    codebook = small_abs.codebook
    for label, row in enumerate(codebook.nearest(image)[0].tolist()):
        start = codebook.prototype_images[label, row]
        loss = (image.flatten() - start).square().sum() + 0.5 * codebook.latents[0, row].square().sum()
        assert float(explanation.losses[0, label]) == pytest.approx(float(loss), rel=1e-5)
        assert torch.allclose(explanation.starts[label].flatten(), start, atol=1e-5)


def test_figure_1_shows_ten_losses_and_the_decision(small_abs):
    images = absynth.load_dataset("mnist", "test")[0][:50, 0]
    section = synthesis_section("figure-1", "Figure 1", lambda _: small_abs, images, 0)
    index = int(section.caption.split()[2].rstrip(","))
    expected = small_abs.infer(images[index][None, None]).losses[0]
    reconstructions, searches = section.panels
    numbers = texts(reconstructions)[1:-2]
    assert [number for place, number in enumerate(numbers) if place % 3 == 2] == [
        f"{float(loss):.1f}" for loss in expected
    ]
    assert len(pictures(reconstructions)) == 1 + 2 * 10
    assert len(searches.figure.axes[0].lines) == 10
    assert f"{int(expected.argmin())}, with confidence" in section.caption


def test_figure_1_needs_a_search(bright):
    with pytest.raises(AbsynthError, match="does not search"):
        synthesis_section("figure-1", "Figure 1", lambda _: bright, torch.zeros(3, 28, 28), 0)


def test_walks_join_what_they_should(small_abs):
    codebook = small_abs.codebook
    generator = torch.Generator().manual_seed(4)
    start, end = torch.randn(2, 8, generator=generator)
    way = walks(codebook, 4)
    assert way.shape == samples(codebook, 4).shape == (10, 10, 28, 28)
    for label in range(10):
        ends = codebook.decode(label, torch.stack([start, end]))[:, 0]
        assert torch.allclose(way[label, [0, -1]], ends, atol=1e-6)
    section = latents_section("latents", "Latents", lambda _: small_abs, 4)
    assert torch.equal(pictures(section.panels[0])[17], samples(codebook, 4)[1, 7])


def test_the_area_is_that_under_the_curve():
    generator = torch.Generator().manual_seed(0)
    inside = torch.randint(6, (30,), generator=generator).double() + 1
    outside = torch.randint(6, (40,), generator=generator).double()
    thresholds = torch.arange(-1, 9).flip(0)
    hits = torch.tensor([(inside >= one).double().mean() for one in thresholds])
    alarms = torch.tensor([(outside >= one).double().mean() for one in thresholds])
    assert area_under_curve(inside, outside) == pytest.approx(float(torch.trapezoid(hits, alarms)))


def test_fashion_is_left_out_and_never_fetched(bright, monkeypatch, tmp_path):
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path))
    monkeypatch.setattr(confidence, "SAMPLE", 20)
    images = absynth.load_dataset("mnist", "test")[0][:30, 0]

    def load(name):
        if name == "madry":
            raise AbsynthError("There is no model 'madry'.")
        return bright

    section = confidence_section("confidence", "Confidence", load, images, 0)
    assert [panel.name for panel in section.panels] == ["confidence-cnn", "confidence-abs"]
    assert any("not on this machine" in remark for remark in section.remarks)
    assert any("no model 'madry'" in remark for remark in section.remarks)
    assert not list(tmp_path.iterdir())
    digits = section.panels[0].figure.axes[0].patches[0].get_data().values
    assert sum(digits) == pytest.approx(100)
    # noise is about half bright, so the model is less sure of it than of dark digits
    assert "noise, AUC" in section.panels[0].description
    assert f"cnn {weights_hash(bright)[:12]}" in section.caption


def test_the_legend_of_confidence_has_room_for_all_kinds(bright, monkeypatch):
    images = absynth.load_dataset("mnist", "test")[0][:200, 0]
    monkeypatch.setattr(confidence, "fashion_images", lambda count, seed: torch.rand(count, 1, 28, 28))
    (panel,) = confidence_section("confidence", "Confidence", lambda _: bright, images, 0, ["cnn"]).panels
    panel.figure.canvas.draw()
    (legend,) = panel.figure.legends
    assert len(legend.texts) == 3
    assert panel.figure.bbox.x0 <= legend.get_window_extent().x0
    assert legend.get_window_extent().x1 <= panel.figure.bbox.x1


def test_confidence_is_the_models_own(bright, make_images):
    images = make_images(5)
    assert torch.equal(confidence.confidences(bright, images).float(), probabilities(bright, images).amax(1))
