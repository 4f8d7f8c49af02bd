"""What is asked of a model before it is attacked, and what is told of it."""

from __future__ import annotations

import random
import sys
import weakref
from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch import Tensor, nn

import absynth
from absynth.attacks import find_attack
from absynth.attacks.averaged import Averaged
from absynth.attacks.checks import check_model, remark_on_masking
from absynth.attacks.probabilities import LogProbabilities
from absynth.errors import AbsynthError
from absynth.models.asked import as_module

Wrapped = Callable[[nn.Module, Tensor], Tensor]


class Around(nn.Module):
    """A healthy network with something around it."""

    def __init__(self, wrapped: Wrapped) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
        self.net = nn.Sequential(*layers).eval()
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Tensor:
        return self.wrapped(self.net, images)


IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3
calls = count()


def healthy(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


@pytest.mark.parametrize(
    "wrapped",
    [
        healthy,
        lambda net, x: net(x).log_softmax(1),
        lambda net, x: 1e4 * net(x),
        lambda net, x: 1e-4 * net(x),
        lambda net, x: net(x).double(),
        lambda net, x: net(x) - 100,
        lambda net, x: net(x).masked_fill(torch.tensor([False, False, True]), -torch.inf),
        lambda net, x: torch.cat([net(one[None]) for one in x]),
    ],
)
def test_a_healthy_model_is_left_alone(wrapped: Wrapped) -> None:
    model = Around(wrapped).train()
    before = torch.get_rng_state()
    checked = check_model(model, IMAGES)
    assert checked.model is model
    assert checked.remarks == ()
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["cnn", "binary-cnn", "codebook-abs", "nearest-neighbour", "abs"])
def test_no_shipped_model_is_accused(name: str) -> None:
    images, _ = absynth.load_dataset("mnist", "test")
    model = absynth.load(name)
    checked = check_model(model, images[50:58])
    assert (checked.model, checked.random, checked.remarks) == (model, False, ())


RANDOM: list[Wrapped] = [
    lambda net, x: net(x + 0.01 * torch.randn_like(x)),
    lambda net, x: net(x) + 0.5 * random.random(),
    lambda net, x: nn.functional.dropout(net(x), 0.5, training=True),
    lambda net, x: net(x) * (1 + next(calls) % 2),
    lambda net, x: net(x) + torch.tensor(__import__("numpy").random.rand(), dtype=torch.float32),
]


@pytest.mark.parametrize("wrapped", RANDOM)
def test_answers_at_random_are_refused_unless_they_are_allowed(wrapped: Wrapped) -> None:
    model = Around(wrapped)
    with pytest.raises(AbsynthError, match=r"The model answers at random: .* allow_random=True"):
        check_model(model, IMAGES)
    checked = check_model(model, IMAGES, allow_random=True, draws=7)
    assert isinstance(checked.model, Averaged)
    assert checked.model.draws == 7
    assert any("the mean of its logits over 7 draws" in remark for remark in checked.remarks)


class Stubborn(nn.Dropout):
    """Is in training mode whatever it is told."""

    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


def test_evaluation_mode_is_advised_where_it_may_help() -> None:
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3))
    hidden = weakref.ref(dropping)
    advised = [
        as_module(lambda x: hidden()(1 * x)),
        nn.Sequential(Stubborn(), nn.Flatten(), nn.Linear(64, 3)),
    ]
    for model in advised:
        with pytest.raises(AbsynthError, match=r"at random: .* luck; put its networks .* \.eval\(\), take"):
            check_model(model, IMAGES)
    for model in (Around(RANDOM[0]).train(), as_module(Around(RANDOM[0]).forward)):
        with pytest.raises(AbsynthError, match=r"at random: .* luck; take the randomness out"):
            check_model(model, IMAGES)


@pytest.mark.parametrize(
    ("wrapped", "sentence"),
    [
        (
            lambda net, x: net(x - x.mean(0)),
            "The answer of the model to an image depends on its batch; ",
        ),
        (
            lambda net, x: nn.functional.batch_norm(net(x), None, None, training=True),
            r"The model fails for an image alone \(Expected more than 1 value .*\); an image must get",
        ),
        (lambda net, x: net(x) + torch.arange(len(x))[:, None] * torch.tensor([0.0, 1, 0]), "depends on its"),
        (lambda net, x: net(x)[:, :1], "answers with a single logit; .* the two logits 0 and t"),
        (lambda net, x: net(x)[:, 0], r"shape \(8,\); it must answer with logits of shape \(8, classes\)"),
        (lambda net, x: net(x).squeeze(0), r"answers 1 image with shape \(3,\); .* shape \(1, classes\)"),
        (lambda net, x: net(x)[:4], r"answers 8 images with shape \(4, 3\)"),
        (lambda net, x: (x, net(x)), "answers 8 images with a tuple"),
        (lambda net, x: net(x).round().long(), "answers with torch.int64 values; logits are real numbers"),
        (lambda net, x: net(x) / (x.sum() * 0), "infinite logits|NaN for 8 of 8"),
        (lambda net, x: net(x).masked_fill(x[:, 0, :1, 0] > 0.5, torch.nan), "NaN for [1-7] of 8"),
    ],
)
def test_answers_whose_figures_would_be_wrong_are_refused(wrapped: Wrapped, sentence: str) -> None:
    for allowed in (False, True):
        with pytest.raises(AbsynthError, match=sentence):
            check_model(Around(wrapped), IMAGES, allow_random=allowed)
    with pytest.raises(AbsynthError):
        absynth.attack(Around(wrapped), IMAGES, LABELS, suite="quick")


def ends_at(size: int) -> Wrapped:
    def wrapped(net: nn.Module, x: Tensor) -> Tensor:
        if len(x) == size:
            sys.exit("done")
        return net(x)

    return wrapped


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_a_model_that_ends_the_program_is_refused(size: int) -> None:
    with pytest.raises(AbsynthError, match=r"SystemExit|alone \(done\)"):
        absynth.attack(Around(ends_at(size)), IMAGES, LABELS, suite="quick")


@pytest.mark.parametrize("question", range(8))
def test_what_a_model_raises_at_any_question_is_told(question: int) -> None:
    asked = count()

    def wrapped(net: nn.Module, x: Tensor) -> Tensor:
        if next(asked) == question:
            raise RuntimeError("no\nmore")
        return net(x)

    with pytest.raises(
        AbsynthError, match=r"mine (raises RuntimeError for .*: no; mend|fails for .* \(no\))"
    ):
        check_model(Around(wrapped), IMAGES, name="mine")


def test_one_image_is_enough_to_see_that_the_batch_matters() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(AbsynthError, match="depends on its batch"):
        check_model(model, IMAGES[:1])


class BrokenGradient(torch.autograd.Function):
    """The identity, whose gradient fails."""

    @staticmethod
    def forward(context: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        raise RuntimeError("no way back")


@pytest.mark.parametrize(
    ("wrapped", "sentence"),
    [
        (lambda net, x: net(x).detach(), "gives no gradients"),
        (
            lambda net, x: net(x.detach()) + 0 * x.sum(),
            "gives no gradients|exactly 0 at 8",
        ),
        (lambda net, x: net((x > 0.5).float()), "gives no gradients|exactly 0 at 8 of 8"),
        (lambda net, x: net(x.round()), "a gradient of exactly 0 at 8 of 8 images"),
        (lambda net, x: net(BrokenGradient.apply(x)), r"fails when asked for gradients \(no way back\)"),
        (lambda net, x: net(x) + 0 * (x - x).sqrt().sum(), "gradients of NaN or infinity at 8 of 8"),
    ],
)
def test_missing_and_broken_gradients_are_remarked_on(wrapped: Wrapped, sentence: str) -> None:
    (remark,) = check_model(Around(wrapped), IMAGES).remarks
    assert pytest.importorskip("re").search(sentence, remark)
    assert "trust those by decisions" in remark


def test_a_model_that_changes_its_images_leaves_the_callers_alone() -> None:
    images = IMAGES.clone()
    remarks = check_model(Around(lambda net, x: net(x.sub_(0.5))), images).remarks
    assert "changes its images in place" in remarks[0]
    assert torch.equal(images, IMAGES)


def test_a_model_that_changes_larger_batches_in_place_gets_copies() -> None:
    def scaled(net: nn.Module, x: Tensor) -> Tensor:
        return net(x.mul_(0.9) if len(x) > 2 else 0.9 * x)

    plain, labels = Around(lambda net, x: net(0.9 * x)), Around(healthy)(IMAGES).argmax(1)
    expected = absynth.attack(plain, IMAGES, labels, norm="linf", suite="quick")
    found = absynth.attack(Around(scaled), IMAGES, labels, norm="linf", suite="quick")
    assert "The model changes its images in place; it was given copies." in found.remarks
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.adversarials, expected.adversarials)


def by_hand(logits: Tensor) -> Tensor:
    powers = (logits - logits.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


SOFT: dict[str, Callable[[Tensor], Tensor]] = {
    "function": lambda logits: nn.functional.softmax(logits, dim=1),
    "clipped": lambda logits: logits.softmax(1).clamp(1e-7, 1 - 1e-7),
    "mean": lambda logits: (logits.softmax(1) + logits.softmax(1)) / 2,
    "by hand": by_hand,
}


@pytest.mark.parametrize("factor", [1.0, 200.0, 1e5])
@pytest.mark.parametrize("form", SOFT)
def test_probabilities_are_attacked_by_their_logarithms(factor: float, form: str) -> None:
    if form in ("by hand", "mean") and factor > 200:
        pytest.skip("beyond double precision")
    plain, soft = Around(healthy), Around(lambda net, x: SOFT[form](factor * net(x)))
    checked = check_model(soft, IMAGES)
    assert isinstance(checked.model, LogProbabilities)
    assert checked.remarks[0].startswith("The model answers with probabilities")
    assert ("saturated at 1" in checked.remarks[0]) == (factor > 1)
    assert len(checked.remarks) == 1
    with torch.no_grad():
        assert torch.equal(checked.model(IMAGES).argmax(1), soft(IMAGES).argmax(1))
        logits, again = factor * plain(IMAGES), checked.model(IMAGES)
    gaps, gaps_again = (one - one.amax(1, keepdim=True) for one in (logits, again))
    assert torch.allclose(gaps, gaps_again, rtol=1e-3, atol=1e-3)
    some, labels = IMAGES[:3], plain(IMAGES[:3]).argmax(1)
    for attack in (find_attack("bim", "linf", "quick"), find_attack("ddn", "l2", "quick")):
        # wider logits make cross-entropy a loss of the two largest alone, which may even help
        ratio = attack(checked.model, some, labels).distances / attack(plain, some, labels).distances
        assert ((ratio > 0.8) & (ratio < 1.1)).all()


def test_probabilities_without_double_precision_are_attacked_by_their_own_logarithms() -> None:
    model = Around(lambda net, x: by_hand(net(x.float())))
    checked = check_model(model, IMAGES)
    assert isinstance(checked.model, LogProbabilities)
    assert checked.model.precise is None
    assert torch.allclose(checked.model(IMAGES), model(IMAGES).log())


@pytest.mark.parametrize("form", ["function", "by hand"])
def test_probabilities_in_half_precision_do_not_flatter(form: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).half()
    images = IMAGES.half().float()
    labels = net(images.half()).argmax(1)

    class Soft(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return SOFT[form](300 * self.net(x))

    expected = absynth.attack(net, images, labels, norm="linf", suite="quick")
    found = absynth.attack(Soft(), images, labels, norm="linf", suite="quick")
    assert any("attacked were their logarithms" in remark for remark in found.remarks)
    assert not any("gradient" in remark for remark in found.remarks)
    assert (found.distances < 1.1 * expected.distances).all()


@pytest.mark.parametrize("name", ["deepfool", "ddn"])
def test_a_model_that_asks_for_a_gradient_in_its_images_is_attacked(name: str) -> None:
    labels, attack = Around(healthy)(IMAGES).argmax(1), find_attack(name, "l2", "quick")
    expected = attack(Around(healthy), IMAGES, labels)
    found = attack(Around(lambda net, x: net(x.requires_grad_(True))), IMAGES, labels)
    torch.testing.assert_close(found.distances, expected.distances)
    assert not found.distances.requires_grad


class Noisy(nn.Module):
    """Two classes told apart by the mean of the image, with noise on the logits."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        mean = 10 * (images.flatten(1).mean(1) - 0.5)
        return torch.stack([-mean, mean], dim=1) + self.noise * torch.randn(len(images), 2)


def test_adversarials_of_a_random_model_hold_for_the_mean_over_fresh_draws() -> None:
    images = torch.tensor([0.4, 0.45, 0.55, 0.6])[:, None, None, None].expand(4, 1, 4, 4).contiguous()
    labels, away = torch.tensor([0, 0, 1, 1]), torch.tensor([0.1, 0.05, 0.05, 0.1]).double()
    model = Noisy(0.5)
    result = absynth.attack(
        model, images, labels, norm="linf", suite="quick", allow_random=True, draws=20, seed=3
    )
    assert result.success.all()
    assert "the mean of its logits over 20 draws" in result.remarks[0]
    # without noise the smallest change of every pixel is the distance of the mean from 1/2
    assert (result.distances > away).all()
    assert (result.distances < away + 0.1).all()
    mean = torch.stack([model(result.adversarials) for _ in range(4000)]).mean(0)
    assert (mean.argmax(1) != labels).all()
    again = absynth.attack(
        model, images, labels, norm="linf", suite="quick", allow_random=True, draws=20, seed=3
    )
    assert torch.equal(result.adversarials, again.adversarials)


def test_masked_gradients_show_in_what_attacks_find() -> None:
    near, far = torch.tensor([1.0, 1, 1, 1]), torch.tensor([1.0, 2, 2, 1])
    told = remark_on_masking({"pgd": far, "boundary": near, "fgm": 3 * far}, "l2", "mine")
    assert told is not None
    assert "gradients of mine may be masked: in l2, boundary comes closer" in told
    assert "on 50% of the images" in told
    for found, norm in (
        ({"pgd": near, "boundary": far}, "l2"),
        ({"pgd": far, "boundary": 0.95 * far}, "l2"),
        ({"pgd": far, "ddn": near, "boundary": near}, "l2"),
        ({"fmn": far, "pointwise": near}, "l0"),
        ({"pgd": far}, "l2"),
        ({"pgd": far[1:3], "boundary": near[1:3]}, "l2"),
    ):
        assert remark_on_masking(found, norm) is None


def test_rounded_inputs_are_told_as_masked_and_a_plain_network_is_not() -> None:
    class Stairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = ((10 * x).round() / 10).flatten(1).mean(1)
            return torch.stack([0.5 - mean, mean - 0.5], dim=1)

    images = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(0.2, 0.8)
    labels = Stairs()(images).argmax(1)
    told = absynth.attack(Stairs(), images, labels, norm="l2", suite="quick").remarks
    assert any("exactly 0" in remark for remark in told)
    assert any("may be masked" in remark for remark in told)
    plain = Around(healthy)
    assert absynth.attack(plain, IMAGES, plain(IMAGES).argmax(1), norm="l2", suite="quick").remarks == ()


@pytest.mark.parametrize(
    ("wrapped", "seems"),
    [
        (lambda net, x: (3 * net(x)).sigmoid(), "between 0 and 1, as a sigmoid gives"),
        (lambda net, x: (60 * net(x)).tanh(), "between -1 and 1, as tanh gives"),
    ],
)
def test_squashed_answers_are_remarked_on(wrapped: Wrapped, seems: str) -> None:
    (remark,) = check_model(Around(wrapped), IMAGES, name="mine").remarks
    assert remark.startswith(f"mine answers with numbers {seems}")


def test_probabilities_in_percent_are_attacked_by_their_logarithms() -> None:
    percent = check_model(Around(lambda net, x: 100 * net(x).softmax(1)), IMAGES)
    assert isinstance(percent.model, LogProbabilities)
    attack = find_attack("ddn", "l2")
    expected = attack(check_model(Around(lambda net, x: net(x).log_softmax(1)), IMAGES).model, IMAGES, LABELS)
    assert torch.allclose(attack(percent.model, IMAGES, LABELS).distances, expected.distances, rtol=1e-2)
