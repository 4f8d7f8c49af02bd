import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import absynth
from absynth.errors import AbsynthError
from absynth.inference import ABS, PAPER, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized
from absynth.models.front import unwrap
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import Decoder
from absynth.progress import Progress
from absynth.training.adversarial import measure_robustness
from absynth.training.recipes.madry import EXAMINER
from absynth.zoo import load, model_folder, model_names


@pytest.fixture(scope="module", params=model_names())
def shipped(request: pytest.FixtureRequest) -> PretrainedModel:
    return load(request.param)


@pytest.fixture(scope="module")
def test_images() -> tuple[Tensor, Tensor]:
    images, labels = absynth.load_dataset("mnist", "test")
    return images[:200], labels[:200]


def test_a_shipped_model_answers(shipped: PretrainedModel, test_images: tuple[Tensor, Tensor]) -> None:
    images, labels = test_images
    if isinstance(unwrap(shipped), ABS):
        images, labels = images[:20], labels[:20]
    with torch.no_grad():
        logits = shipped(images)
    assert logits.shape == (len(images), 10)
    assert logits.isfinite().all()
    assert (logits.argmax(1) == labels).double().mean() >= 0.95


def test_a_shipped_model_is_ready_for_use(shipped: PretrainedModel) -> None:
    images = torch.rand(2, 1, 28, 28).requires_grad_()
    logits = shipped(images)
    assert logits.shape == (2, 10)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert not any(module.training for module in shipped.modules())
    assert not any(parameter.requires_grad for parameter in shipped.parameters())


def test_madry_withstands_what_the_plain_network_does_not(
    test_images: tuple[Tensor, Tensor], progress: Progress
) -> None:
    images, labels = (part[:40] for part in test_images)
    attacked = {
        name: measure_robustness(
            load(name), images, labels, EXAMINER, restarts=1, seed=0, progress=progress
        ).attacked
        for name in ("madry", "cnn")
    }
    assert attacked["madry"] >= 0.85
    assert attacked["cnn"] <= 0.05


def test_every_shipped_model_is_known_by_name() -> None:
    assert model_names()
    for name in model_names():
        assert sorted(path.name for path in model_folder(name).glob("config.json")) == ["config.json"]
    assert absynth.model_names() == model_names()


def test_an_unknown_model_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(AbsynthError, match="no model 'resnet'") as raised:
        load("resnet")
    for name in model_names():
        assert name in str(raised.value)


@pytest.fixture
def decoders(make_decoder: Callable[..., Decoder]) -> list[Decoder]:
    return [make_decoder(seed) for seed in range(2)]


@pytest.mark.parametrize("wrap", [lambda model: model, Binarized])
def test_the_papers_settings_replace_the_models_own(
    decoders: list[Decoder], tmp_path: Path, wrap: Callable[[ABS], PretrainedModel]
) -> None:
    own = SearchSettings(steps=3, margin=1.0)
    wrap(ABS(CodebookABS(decoders, draw_latents(5)), own)).save_pretrained(tmp_path)
    for settings, expected in ((None, own), ("paper", PAPER)):
        model = unwrap(load(str(tmp_path), settings=settings))
        assert isinstance(model, ABS)
        assert model.settings == expected


@pytest.mark.parametrize(
    "make_model",
    [
        lambda _: CNN(2),
        lambda _: Binarized(CNN(2)),
        lambda decoders: CodebookABS(decoders, draw_latents(5)),
    ],
)
def test_a_model_without_a_search_has_no_paper_settings(
    decoders: list[Decoder], make_model: Callable[[list[Decoder]], PretrainedModel], tmp_path: Path
) -> None:
    make_model(decoders).save_pretrained(tmp_path)
    with pytest.raises(AbsynthError, match="has no settings; only the ABS models"):
        load(tmp_path, settings="paper")


def test_other_settings_have_no_name(tmp_path: Path) -> None:
    CNN(2).save_pretrained(tmp_path)
    with pytest.raises(AbsynthError, match=r"no settings 'fast'.*'paper'"):
        load(tmp_path, settings="fast")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"holds no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"type": "binarized"}))
    with pytest.raises(AbsynthError, match="has no settings"):
        load(tmp_path, settings="paper")


def test_a_model_can_go_to_a_device(decoders: list[Decoder], tmp_path: Path) -> None:
    model = CodebookABS(decoders, draw_latents(5))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, device="meta")
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"meta"}


def test_a_threshold_is_unwrapped() -> None:
    model = CNN(2)
    assert unwrap(Binarized(model)) is model
    assert unwrap(model) is model


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "runs/model.pt",
            "'runs/model.pt' is a file, and no model .* write a function .* my_file.py:make",
        ),
        ("runs/other.pth", "'runs/other.pth' is no file that exists; write a function"),
        ("runs/weights.bin", "is a file, and no model by itself"),
        ("runs/mine.py", "'runs/mine.py' names no function; add the one that makes the model"),
    ],
)
def test_a_file_where_a_model_is_wanted_is_told_without_the_network(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str) -> Path:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("absynth.zoo.download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for file in ("model.pt", "weights.bin", "mine.py"):
        (tmp_path / "runs" / file).write_bytes(b"")
    with pytest.raises(AbsynthError, match=sentence):
        absynth.load(name)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda _: CNN(2),
        # so many that what is decoded is indexed as well
        lambda decoders: ABS(CodebookABS(decoders, draw_latents(1100))),
    ],
)
def test_loading_leaves_the_generator_and_takes_no_default_device(
    decoders: list[Decoder], make_model: Callable[[list[Decoder]], PretrainedModel], tmp_path: Path
) -> None:
    make_model(decoders).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert {one.device.type for one in model.state_dict().values()} == {"cpu"}


def test_images_of_another_type_are_told(shipped: PretrainedModel) -> None:
    for kind in (torch.float64, torch.float16):
        with pytest.raises(AbsynthError, match=r"computes in float32; give it images.to\(torch.float32\)"):
            shipped(torch.zeros(1, 1, 28, 28, dtype=kind))


@pytest.mark.parametrize("name", [None, 3, ["cnn"]])
def test_what_is_no_name_is_told(name: object) -> None:
    with pytest.raises(AbsynthError, match=r"The name of the model is .*; name one of abs"):
        load(name)
