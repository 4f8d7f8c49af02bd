import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.inference.decision import Decision, decide, decide_renderings, decisions, probabilities
from absynth.models.cnn import CNN, Binarized
from absynth.models.vae import Decoder


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.fixture
def codebook(make_decoder: Callable[..., Decoder]) -> CodebookABS:
    model = CodebookABS([make_decoder(seed) for seed in range(4)], draw_latents(50))
    model.prepare()
    return model


def test_a_decision_names_the_two_likeliest_classes() -> None:
    model = Fixed([math.log(0.1), math.log(0.6), math.log(0.3)])
    first, second = decide(model, torch.zeros(2, 1, 28, 28))
    assert first == second == Decision(1, first.confidence, 2, first.runner_up_confidence, abstained=False)
    assert (first.confidence, first.runner_up_confidence) == pytest.approx((0.6, 0.3))


@pytest.mark.parametrize(("least", "abstained"), [(0.59, False), (0.61, True)])
def test_it_abstains_below_the_least_confidence(least: float, abstained: bool) -> None:
    model = Fixed([math.log(0.1), math.log(0.6), math.log(0.3)])
    (decision,) = decide(model, torch.zeros(1, 1, 28, 28), least_confidence=least)
    assert decision.abstained is abstained


@pytest.mark.parametrize("wrap", [lambda m: m, Binarized, lambda m: ABS(m, SearchSettings(steps=1))])
def test_models_that_explain_say_near_uniform_where_they_cannot(
    codebook: CodebookABS, make_images: Callable[..., Tensor], wrap: Callable[[CodebookABS], nn.Module]
) -> None:
    confidence = probabilities(wrap(codebook).eval(), make_images(3))
    torch.testing.assert_close(confidence, torch.full((3, 4), 0.25), rtol=0, atol=1e-3)
    assert all(decision.abstained for decision in decide(wrap(codebook), make_images(3), 0.3))


def test_models_that_explain_are_sure_of_what_they_synthesise(codebook: CodebookABS) -> None:
    images = codebook.prototypes().images[2, :3].view(3, 1, 28, 28)
    decisions = decide(codebook, images)
    assert [decision.label for decision in decisions] == [2, 2, 2]
    assert all(decision.confidence > 0.5 for decision in decisions)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.1, 1.1])
def test_pixels_outside_the_box_are_not_decided_on(
    value: float, codebook: CodebookABS, make_images: Callable[..., Tensor]
) -> None:
    images = make_images(2)
    images[1, 0, 3, 4] = value
    for model in (codebook, Binarized(codebook), CNN().eval()):
        with pytest.raises(AbsynthError, match=r"NaN|outside"):
            decide(model, images)
        with pytest.raises(AbsynthError, match="at least one image"):
            decide(model, images[:0])


def test_images_of_another_shape_are_not_decided_on(
    codebook: CodebookABS, make_images: Callable[..., Tensor]
) -> None:
    images = make_images(2)
    for model in (codebook, Binarized(codebook), CNN().eval()):
        for wrong in (images[:, :, :20], images.repeat(1, 3, 1, 1), torch.zeros(1, 1, 5000, 5000)):
            with pytest.raises(AbsynthError, match="have shape"):
                decide(model, wrong)


def test_other_models_have_their_softmax(make_images: Callable[..., Tensor]) -> None:
    confidence = probabilities(Binarized(Fixed([-1000.0, -1001.0])), make_images(1))
    torch.testing.assert_close(confidence, torch.tensor([[1 / (1 + math.exp(-1)), 1 / (1 + math.e)]]))


def test_confidences_that_are_known_already_decide_the_same() -> None:
    model = Fixed([0.3, 1.2, -0.5])
    images = torch.zeros(2, 1, 28, 28)
    assert decisions(model(images), probabilities(model, images), 0.7) == decide(model, images, 0.7)


def test_the_best_class_is_named_even_where_confidence_is_the_same_in_all(codebook: CodebookABS) -> None:
    image = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert probabilities(codebook, image).unique().numel() == 1
    labels = [decision.label for decision in decide(codebook, image)]
    assert labels == codebook.losses(image).argmin(dim=1).tolist()


@pytest.mark.parametrize(
    ("rows", "label", "abstained"),
    [
        ([[0.0, 3.0, 1.0], [0.0, 2.0, 1.5]], 1, False),  # the best of each class: 0, 3, 1.5
        (
            [[0.0, 3.0, 1.0], [0.0, 2.0, 2.5]],
            1,
            True,
        ),  # one rendering speaks nearly as well for another class
        ([[0.0, 3.0, 1.0], [0.0, 2.0, 4.5]], 2, False),  # a rendering that explains more than the others
        ([[0.0, 1.0, 0.9]], 1, False),  # a single one is decided as any image
    ],
)
def test_the_best_explanation_of_each_class_counts_and_close_ones_abstain(
    rows: list[list[float]], label: int, abstained: bool
) -> None:
    images = torch.tensor(rows).view(-1, 1, 1, 3) / 8
    (decision,) = decide_renderings(lambda x: 8 * x.flatten(1), [images])
    assert (decision.label, decision.abstained) == (label, abstained)


def test_a_network_in_training_mode_is_asked_in_evaluation_mode(make_images: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.9), nn.Linear(28 * 28, 3))
    images = make_images(4)
    with torch.no_grad():
        expected = model.eval()(images).softmax(dim=1)
    model.train()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    torch.testing.assert_close(probabilities(model, images), expected)
    assert [one.label for one in decide(model, images)] == expected.argmax(dim=1).tolist()
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_probabilities_are_the_confidences_themselves() -> None:
    (decision,) = decide(Fixed([0.1, 0.6, 0.3]), torch.zeros(1, 1, 28, 28))
    assert (decision.confidence, decision.runner_up_confidence) == pytest.approx((0.6, 0.3))


@pytest.mark.parametrize("logits", [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [-math.inf] * 3])
def test_what_is_no_number_decides_nothing(logits: list[float]) -> None:
    for ask in (decide, probabilities):
        with pytest.raises(AbsynthError, match="NaN or infinite logits for 2 of 2 images"):
            ask(Fixed(logits), torch.zeros(2, 1, 28, 28))


def test_a_class_may_be_ruled_out() -> None:
    (decision,) = decide(Fixed([-math.inf, 1.0, 0.0]), torch.zeros(1, 1, 28, 28))
    assert decision.label == 1


def test_renderings_of_a_model_with_probabilities_are_decided_like_those_of_its_logits() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.5]])

    class Rows(nn.Module):
        def __init__(self, rows: Tensor) -> None:
            super().__init__()
            self.rows = rows

        def forward(self, images: Tensor) -> Tensor:
            return self.rows

    renderings = [torch.zeros(2, 1, 28, 28)]
    (expected,) = decide_renderings(Rows(scores.log_softmax(1)), renderings)
    (found,) = decide_renderings(Rows(scores.softmax(1)), renderings)
    assert (found.label, found.abstained) == (expected.label, expected.abstained)
    assert found.confidence == pytest.approx(expected.confidence)
