"""Distal adversarials: the ascent on a model with a known answer, and what is kept of it."""

import pytest
import torch

from absynth.attacks.gradient_estimation import EstimatedGradient
from absynth.errors import AbsynthError
from absynth.evaluate.distal import ENOUGH, ascend, find_distal, read_distal, write_distal
from absynth.inference.decision import probabilities
from absynth.report.figures.distal import distal_section
from absynth.report.tables import distal_table


def brightness(images):
    return images.flatten(1).mean(dim=1)


@pytest.mark.parametrize("estimated", [False, True])
def test_the_ascent_on_a_linear_model_takes_the_known_number_of_steps(bright, progress, estimated):
    # Every pixel has the same weight, so a step of length 1 brightens each pixel by 1/28.
    model = EstimatedGradient(bright, method="coordinates") if estimated else bright
    starts = torch.full((2, 1, 28, 28), 0.3)
    starts[1] = 0.9
    images, steps = ascend(model, starts, 1, steps=30, length=1.0, progress=progress)
    needed = 0.5 + float(torch.logit(torch.tensor(ENOUGH)) + torch.log(torch.tensor(9.0))) / 30
    assert steps.tolist() == [1 + int((needed - 0.3) * 28), 0]
    expected = 0.3 + int(steps[0]) / 28
    assert torch.allclose(images[0], torch.full((1, 28, 28), expected), atol=1e-3)
    assert torch.equal(images[1], starts[1])
    assert bool((probabilities(bright, images)[:, 1] > ENOUGH).all())


def test_the_ascent_stays_in_the_box_and_keeps_the_best(bright, progress, make_images):
    images, steps = ascend(bright, make_images(3), 0, steps=3, length=20.0, progress=progress)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    before = probabilities(bright, make_images(3))[:, 0]
    assert bool((probabilities(bright, images)[:, 0] >= before).all())
    assert steps.max() <= 3


def test_the_ascent_on_a_model_that_explains_raises_its_own_logit(small_abs, progress, make_images):
    starts = make_images(2)
    assert float(probabilities(small_abs, starts).amax()) == pytest.approx(0.1)
    images, _ = ascend(small_abs, starts, 1, steps=40, length=2.0, progress=progress)
    gained = small_abs(images)[:, 1] - small_abs(starts)[:, 1]
    assert bool((gained >= 0).all())
    assert float(gained.detach().max()) > 0


def find(models, progress, gradient="exact", target=1):
    return find_distal(models, target=target, count=2, steps=3, gradient=gradient, seed=7, progress=progress)


def test_what_is_written_is_read_and_drawn(bright, small_abs, progress, tmp_path):
    models = {"cnn": bright, "abs": small_abs}
    found = find(models, progress)
    write_distal(found, tmp_path)
    read = {entry.model: entry for entry in read_distal(tmp_path)}
    for entry in found:
        again = read[entry.model]
        assert torch.equal(again.images, entry.images)
        assert torch.equal(again.steps, entry.steps)
        assert (again.weights, again.seed, again.target) == (entry.weights, 7, 1)
        for name, model in models.items():
            said = probabilities(model, entry.images)[:, 1]
            assert torch.allclose(again.confidences[name], said, atol=1e-6)
    section = distal_section("figure-4", "Figure 4", list(read.values()))
    shown = [text.get_text() for text in section.panels[0].figure.axes[0].texts]
    expected = found[0].confidences["cnn"][1]
    assert f"cnn {float(expected):.0%}" in shown[5:]
    assert any("madry is left out" in remark for remark in section.remarks)
    assert distal_table(found).row_count == 2


def test_the_estimated_ascent_is_kept_beside_the_exact(bright, progress, tmp_path):
    for gradient in ("exact", "estimated"):
        write_distal(find({"cnn": bright}, progress, gradient), tmp_path)
    assert [entry.gradient for entry in read_distal(tmp_path)] == ["estimated", "exact"]


def test_mistakes_are_one_sentence(bright, progress, tmp_path):
    with pytest.raises(AbsynthError, match="choose one of exact, estimated"):
        find({"cnn": bright}, progress, gradient="guessed")
    with pytest.raises(AbsynthError, match="choose one of 0 to 9"):
        find({"cnn": bright}, progress, target=10)
    with pytest.raises(AbsynthError, match="none are recorded"):
        distal_section("figure-4", "Figure 4", read_distal(tmp_path))
    (tmp_path / "distal").mkdir()
    (tmp_path / "distal" / "broken.safetensors").write_bytes(b"no images")
    with pytest.raises(AbsynthError, match=r"broken\.safetensors are damaged"):
        read_distal(tmp_path)
