"""Models that are no modules, answer in other forms, compute in other types or change what they are given."""

from __future__ import annotations

import copy
import functools
import math
import weakref
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from absynth.attacks import Attack, attack, find_attack, suites
from absynth.attacks.gradient_descent import FastGradient
from absynth.attacks.target import Target
from absynth.attacks.transfer import Transfer
from absynth.certify import certify
from absynth.errors import AbsynthError
from absynth.evaluate.attacks import choose_attacks
from absynth.evaluate.candidates import check_candidate
from absynth.evaluate.distal import ascend
from absynth.evaluate.tasks import Preset, misfits, weights_hash
from absynth.inference.decision import decide
from absynth.models import held
from absynth.models.asked import IN_PLACE, Asked, as_module, read_logits
from absynth.models.cnn import Binarized, StridedCNN
from absynth.models.held import held_networks
from absynth.progress import Progress

SIDE = 6
Output = namedtuple("Output", ["loss", "logits"])


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _few_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of one attack by gradients, one of foolbox and one by decisions."""
    names = ("fgm", "deepfool", "gaussian-noise")
    some = tuple(find_attack(name, "l2", "quick") for name in names)
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: some)


class Answering(nn.Module):
    """A network whose answer is put into another form."""

    def __init__(self, network: nn.Module, form: Any) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.network(images))


FORMS: dict[str, Any] = {
    "tuple": lambda logits: (logits, "features"),
    "list": lambda logits: [logits, logits.sum()],
    "dictionary": lambda logits: {"features": None, "logits": logits},
    "dictionary of one": lambda logits: {"out": logits},
    "output of a library": lambda logits: SimpleNamespace(logits=logits, loss=None),
    "named tuple": lambda logits: Output(logits.sum(), logits),
    "double": lambda logits: logits.double(),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_that_are_plain_to_see_are_found(form: str, network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(1)
    expected = attack(network, images, labels, suite="quick")
    model = Answering(network, FORMS[form])
    found = attack(model, images, labels, suite="quick")
    torch.testing.assert_close(found.distances, expected.distances, rtol=1e-4, atol=0)
    assert any("taken for" in remark for remark in found.remarks) == (form != "double")
    assert [one.label for one in decide(model, images)] == labels.tolist()


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (lambda logits: None, "with a NoneType whose logits are not plain to see"),
        (lambda logits: ("features", logits), "with a tuple whose logits"),
        (lambda logits: (logits.repeat(1, 2), logits), "with a tuple of which 2 entries could be the logits"),
        (lambda logits: [logits, None, logits.detach().numpy()], "with a list of which 2 entries"),
        (lambda logits: {"a": logits, "b": logits}, "with a dict whose logits"),
        (lambda logits: logits[:1], r"answers 2 images with the shape \(1, 3\)"),
        (lambda logits: logits.argmax(1), r"with the shape \(2,\)"),
        (lambda logits: logits[:, :1], "single logit; .*at least two classes"),
        (lambda logits: logits.round().long(), "torch.int64 values; logits are real numbers"),
        (lambda logits: logits[:, :, None], r"with the shape \(2, 3, 1\)"),
        (lambda logits: logits / math.nan, "NaN for 4 of 4"),
        (lambda logits: 1 / 0, "The model raises ZeroDivisionError .*division by zero"),
    ],
)
def test_other_answers_are_told_in_a_sentence(
    form: Any, sentence: str, network: nn.Module, images: Tensor
) -> None:
    model = Answering(network, form)
    for one in (model, lambda x: model(1 * x)):
        with pytest.raises(AbsynthError, match=sentence):
            attack(one, images, [0, 1, 2, 0], suite="quick")


def test_images_of_another_size_than_the_model_takes_are_told(network: nn.Module) -> None:
    with pytest.raises(
        AbsynthError, match=r"raises RuntimeError for images of shape \(2, 1, 5, 5\) in float32"
    ):
        attack(network, torch.rand(3, 1, 5, 5), [0, 1, 2], suite="quick")
    with pytest.raises(AbsynthError, match="raises RuntimeError"):
        decide(network, torch.rand(3, 1, 5, 5))


@pytest.mark.parametrize("model", ["cnn", None, 3, nn.Linear])
def test_what_is_no_model_is_told(model: Any, images: Tensor) -> None:
    with pytest.raises(AbsynthError, match=r"give a torch.nn.Module, or a function") as told:
        attack(model, images, [0, 0, 0, 0], suite="quick")
    assert ("absynth.load('cnn')" in str(told.value)) == (model == "cnn")


def test_functions_are_models_and_their_networks_are_held_still(
    network: nn.Sequential, images: Tensor
) -> None:
    noisy = nn.Sequential(nn.Dropout(0.5), network)
    labels = network(images).argmax(1)
    expected = attack(network, images, labels, suite="quick")
    for function in (lambda x: noisy(1 * x), noisy.forward, noisy.__call__):
        found = attack(function, images, labels, suite="quick")
        assert torch.equal(found.distances, expected.distances)
        assert noisy.training and noisy[0].training
        assert all(one.grad is None and one.requires_grad for one in noisy.parameters())


def test_no_parameter_collects_a_gradient_even_of_a_network_that_nobody_knows_of(
    network: nn.Sequential, images: Tensor
) -> None:
    hidden = weakref.ref(network)

    class Hiding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return hidden()(x)

    labels = network(images).argmax(1)
    expected = attack(network, images, labels, suite="quick")
    network[1].weight.grad = torch.full_like(network[1].weight, 7.0)
    for model in (Hiding(), lambda x: hidden()(1 * x)):
        assert held_networks(model) == []
        assert torch.equal(attack(model, images, labels, suite="quick").distances, expected.distances)
    assert bool((network[1].weight.grad == 7).all()) and network[1].bias.grad is None


def test_a_function_of_arrays_is_attacked_by_its_decisions(network: nn.Sequential, images: Tensor) -> None:
    weight, bias = (one.detach().numpy() for one in network[1].parameters())

    def arrays(x: Any) -> np.ndarray:
        return np.asarray(x).reshape(len(x), -1) @ weight.T + bias

    labels = network(images).argmax(1)
    noise = find_attack("gaussian-noise", "l2", "quick")(network, images, labels)
    found = attack(arrays, images, labels, suite="quick")
    assert any("gives no gradients" in remark for remark in found.remarks)
    assert (found.distances <= noise.distances * (1 + 1e-4)).all()
    back = attack(lambda x: torch.from_numpy(arrays(x.numpy())), images, labels, suite="quick")
    assert any("gives no gradients" in remark for remark in back.remarks)
    torch.testing.assert_close(back.distances, found.distances)


class InPlace(nn.Module):
    """Normalises what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x.sub_(0.1).div_(0.3))


class Clipping(InPlace):
    """Changes no value of an image in [0, 1], and yet writes."""

    def forward(self, x: Tensor) -> Any:
        return self.network(x.clamp_(0, 1))


@pytest.mark.parametrize("kind", [InPlace, Clipping])
def test_a_model_that_writes_gets_copies(kind: type[InPlace], network: nn.Module, images: Tensor) -> None:
    class Right(InPlace):
        def forward(self, x: Tensor) -> Any:
            return self.network((x - 0.1) / 0.3 if kind is InPlace else x)

    kept, labels = images.clone(), Right(network)(images).argmax(1)
    expected = attack(Right(network), images, labels, suite="quick")
    found = attack(kind(network), images, labels, suite="quick")
    assert torch.equal(images, kept)
    assert torch.equal(found.distances, expected.distances)
    assert IN_PLACE in found.remarks and IN_PLACE not in expected.remarks
    assert [one.label for one in decide(kind(network), images)] == labels.tolist()
    assert torch.equal(images, kept)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_and_decided_in_the_models_own_type(
    kind: torch.dtype, network: nn.Module, images: Tensor
) -> None:
    coarse = copy.deepcopy(network).to(kind)
    for given in (images.to(kind), images, images.double()):
        labels = coarse(given.to(kind)).argmax(1)
        found = attack(coarse, given, labels, suite="quick")
        assert found.success.all() and (found.distances > 0).all()
        assert found.adversarials.dtype == given.dtype
        assert (coarse(found.adversarials.to(kind)).argmax(1) != labels).all()
        fine = attack(network, given, network(images).argmax(1), suite="quick")
        torch.testing.assert_close(found.distances, fine.distances, rtol=0.2, atol=0.05)


def test_a_double_model_answers_single_images(network: nn.Module, images: Tensor) -> None:
    double = copy.deepcopy(network).double()
    labels = double(images.double()).argmax(1)
    found = attack(double, images, labels, suite="quick")
    assert found.adversarials.dtype == torch.float64
    expected = attack(double, images.double(), labels, suite="quick")
    assert torch.equal(found.distances, expected.distances)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graphs_and_parallel_modules_are_models(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(1)
    expected = attack(network, images, labels, suite="quick")
    for model in (
        torch.jit.script(network),
        torch.jit.trace(network, images[:1]),
        torch.jit.freeze(torch.jit.script(network.eval())),
        nn.DataParallel(network),
    ):
        found = attack(model, images, labels, suite="quick")
        torch.testing.assert_close(found.distances, expected.distances)


def test_a_model_made_in_inference_mode_can_be_attacked(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(1)
    with torch.inference_mode():
        model = copy.deepcopy(network).requires_grad_(False)
        found = attack(model, images.clone(), labels.clone(), suite="quick")
    assert any(one.is_inference() for one in model.parameters())
    assert torch.equal(found.distances, attack(network, images, labels, suite="quick").distances)


class Breaking(Attack):
    """An attack of a library that breaks on some images."""

    name, norm = "breaking", "l2"

    def __init__(self, only: Tensor | None = None) -> None:
        self.only = only

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, target: Target, images: Tensor) -> Tensor:
        if self.only is None or any(torch.equal(one, self.only) for one in images):
            raise ValueError("could not\nbracket")
        return images


def test_an_attack_that_breaks_loses_none_of_the_others(
    network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, fgm = network(images).argmax(1), FastGradient("fgm", "l2")
    expected = fgm(network, images, labels)
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: (Breaking(images[3]), fgm))
    found = attack(network, images, labels, suite="quick", batch_size=1)
    torch.testing.assert_close(found.distances, expected.distances, rtol=1e-4, atol=0)
    assert found.remarks == (
        "The attack 'breaking' broke and does not count for 1 of 4 images (ValueError: could not).",
    )
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: (Breaking(),))
    with pytest.raises(AbsynthError, match="Every attack broke on the model, the last one with ValueError"):
        attack(network, images, labels, suite="quick")


@pytest.mark.parametrize(("size", "classes"), [(24, 10), (28, 26), (28, 2)])
def test_transfer_is_left_out_where_its_substitute_does_not_fit(
    size: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fgm = FastGradient("fgm", "l2")
    transfer = Transfer("transfer", "l2", "cnn", (fgm,))
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: (transfer, fgm))
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(size**2, classes)), torch.rand(2, 1, size, size)
    labels = model(images).argmax(1)
    found = attack(model, images, labels, suite="quick")
    assert torch.equal(found.distances, fgm(model, images, labels).distances)
    assert any("'transfer' was left out" in remark for remark in found.remarks)
    with pytest.raises(AbsynthError, match="'transfer' uses what a Sequential does not have"):
        transfer(model, images, labels)


def test_the_result_says_what_was_wrong_from_the_start(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(1)
    other = labels.clone()
    other[:3] = (other[:3] + 1) % 3
    found = attack(network, images, other, suite="quick")
    assert found.misclassified.tolist() == [True, True, True, False]
    assert any(
        remark.startswith("3 of 4 images are misclassified from the start") and "untargeted" in remark
        for remark in found.remarks
    )
    assert attack(network, images, labels, suite="quick").remarks == ()


def test_a_plain_module_is_asked_as_it_is(network: nn.Module, images: Tensor) -> None:
    asked = as_module(network)
    assert asked is network and not isinstance(asked, Asked)
    assert read_logits(network(images), 4).shape == (4, 3)


class Counting(nn.Module):
    """A network that counts its calls and remembers images, and lets its statistics run on in any mode."""

    def __init__(self, network: nn.Module, remembered: int = 70_000) -> None:
        super().__init__()
        self.network, self.norm = network, nn.BatchNorm2d(1)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("unset", None)
        self.register_buffer("memory", torch.zeros(remembered))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = self.replaced + 1
        self.unset = images.detach().mean()
        self.memory[: images[0].numel()] = images.detach()[0].flatten()
        self.norm.train()
        self.norm(images)
        return self.network(images)


def test_what_a_model_changes_of_its_buffers_is_put_back(network: nn.Module, images: Tensor) -> None:
    model = Counting(network).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, images, network(images).argmax(1), suite="quick")
    decide(model, images)
    with pytest.raises(AbsynthError, match="batch"):
        attack(lambda x: model(x) + model.norm(x).flatten(1)[:, :3], images, [0, 1, 2, 0], suite="quick")
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not model.norm.training


def test_a_buffer_too_large_for_a_copy_is_told_if_it_is_written_to(
    network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABSYNTH_MEMORY", "1")
    sentence = r"writes into its buffer 'memory' .* set ABSYNTH_MEMORY to at least 2 \(megabytes\)\.$"
    for ask in (decide, lambda model, images: attack(model, images, [0, 1, 2, 0], suite="quick")):
        with pytest.raises(AbsynthError, match=sentence):
            ask(Counting(network, 100_000).eval(), images)
    # what is only read takes no copy
    held = nn.Sequential(network, nn.Identity())
    held[1].register_buffer("memory", torch.zeros(100_000))
    assert decide(held, images) == decide(network, images)
    monkeypatch.setenv("ABSYNTH_MEMORY", "2")
    decide(Counting(network, 100_000).eval(), images)


class Holding:
    """No module, but one is an attribute of it, or lies in one."""

    networks = None

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, images: Tensor) -> Tensor:
        return first(self.network)(images)

    def answer(self, images: Tensor) -> Tensor:
        return self(images)


class Slots:
    """No module, and without a dictionary of attributes."""

    __slots__ = ("empty", "network")

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(images)


class Listing(nn.Module):
    """A module that does not own its network, and names it in another method."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.networks = [network]

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)

    def answer(self, images: Tensor) -> Tensor:
        return self.networks[0](images)


def first(held: Any) -> Any:
    """The first of what is held, at any depth."""
    while not callable(held):
        held = next(iter(held.values())) if isinstance(held, dict) else held[0]
    return held


def in_a_circle(network: nn.Module) -> Holding:
    """A list that has itself as its second entry."""
    circle: list[Any] = [network]
    circle.append(circle)
    return Holding(circle)


def as_attribute_of_a_class(network: nn.Module) -> Any:
    """An object whose class has the network."""

    class Shared(Holding):
        networks = (network,)

        def __call__(self, images: Tensor) -> Tensor:
            return self.networks[0](images)

    return Shared(None)


@pytest.mark.parametrize(
    "form",
    [
        Holding,
        lambda network: Holding(network).answer,
        lambda network: functools.partial(lambda held, x: held(x), network),
        lambda network: functools.partial(lambda x, held: held(x), held=network),
        functools.partial,
        lambda network: functools.partial(Holding(network)),
        lambda network: Holding([network]),
        lambda network: Holding((network,)).answer,
        lambda network: Holding({"members": [{"one": network}]}),
        lambda network: Holding([Holding({"one": Holding(network)})]),
        lambda network: Holding([lambda x: network(1 * x)]),
        lambda network: lambda x, held=(network,): held[0](x),
        in_a_circle,
        as_attribute_of_a_class,
        Slots,
        Listing,
        lambda network: nn.Sequential(Listing(network)),
        lambda network: functools.lru_cache(Holding([network]).answer),
    ],
)
def test_networks_that_hang_on_a_callable_are_put_into_evaluation_mode(
    form: Any, network: nn.Sequential, images: Tensor
) -> None:
    dropping = nn.Sequential(nn.Dropout(0.5), network).train()
    labels = network(images).argmax(1)
    expected = attack(network, images, labels, suite="quick")
    found = attack(form(dropping), images, labels, suite="quick")
    torch.testing.assert_close(found.distances, expected.distances)
    assert [one.label for one in decide(form(dropping), images)] == labels.tolist()
    assert dropping.training
    assert all(one.requires_grad and one.grad is None for one in network.parameters())


def test_a_model_of_many_entries_is_searched_to_a_bound(network: nn.Module) -> None:
    assert held_networks([*range(held.MOST_ENTRIES - 1), network]) == [network]
    assert held_networks([*range(held.MOST_ENTRIES), network]) == []
    deep: Any = network
    for _ in range(held.DEEPEST):
        deep = [deep]
    assert held_networks(deep) == [network]
    assert held_networks([deep]) == []


def test_a_network_in_a_list_has_the_type_that_the_model_computes_in(
    network: nn.Module, images: Tensor
) -> None:
    double = copy.deepcopy(network).double()
    for model in (Holding([double]), Listing(double)):
        found = attack(model, images, double(images.double()).argmax(1), suite="quick")
        assert found.adversarials.dtype == torch.float64


def test_a_model_that_reaches_another_network_has_another_identity(network: nn.Module) -> None:
    other = copy.deepcopy(network)
    assert weights_hash(Listing(network)) == weights_hash(Listing(other))
    with torch.no_grad():
        other[1].bias += 1
    assert weights_hash(Listing(network)) != weights_hash(Listing(other))
    assert weights_hash(as_module(Holding([network]))) != weights_hash(as_module(Holding([other])))


def test_a_shipped_network_turned_to_half_answers_float32_images_at_every_door(
    progress: Progress, make_images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: (FastGradient("fgm", "l2"),))
    kind, images = torch.bfloat16, make_images(2)
    coarse = StridedCNN(2).eval().to(kind)
    labels = coarse(images.to(kind)).argmax(1)
    assert [one.label for one in decide(coarse, images)] == labels.tolist()
    assert attack(coarse, images, labels, suite="quick").adversarials.dtype == torch.float32
    preset = Preset(("coarse",), "quick", {"l2": ("fgm",)}, images=2, clean_images=2)
    candidate = check_candidate("coarse", coarse, "0", images, preset)
    torch.testing.assert_close(candidate.model(images), coarse(images.to(kind)).float())
    found, _ = ascend(coarse, images, 0, steps=1, progress=progress)
    assert found.dtype == torch.float32
    assert certify(coarse, images, labels, method="interval").radius.dtype == torch.float64
    for inside_autocast in (False, True):
        with (
            torch.autocast("cpu", enabled=inside_autocast),
            pytest.raises(AbsynthError, match=r"images are float32 and the model computes in bfloat16"),
        ):
            coarse(images)


def test_an_attack_that_looks_inside_is_told_where_it_cannot(make_images: Any, monkeypatch: Any) -> None:
    images, some = make_images(2), (find_attack("threshold", "l2", "broad"), FastGradient("fgm", "l2"))
    monkeypatch.setitem(suites.BUILDERS, "quick", lambda norm: some)
    model = Binarized(StridedCNN(2)).eval()
    for one, left_out in ((model, False), (copy.deepcopy(model).bfloat16(), True)):
        found = attack(one, images, [0, 1], suite="quick")
        assert (
            any("The attack 'threshold' was left out: it looks inside" in r for r in found.remarks)
            == left_out
        )
        preset = Preset(("m",), "broad", {"l2": ("threshold", "fgm"), "l0": ("threshold",)}, 2, 2)
        candidate = check_candidate("m", one, "0", images, preset)
        told = misfits(choose_attacks(preset), "m", candidate.model, images.shape[1:])
        assert any("'threshold' (l2, l0) was left out for m: it looks" in one for one in told) == left_out
