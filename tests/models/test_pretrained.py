import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.inference import ABS, CodebookABS, SearchSettings
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized, IntervalCNN, SmoothedCNN, StridedCNN
from absynth.models.pretrained import PretrainedModel, load_folder, read_config, round_to_half
from absynth.models.vae import Decoder

MakeImages = Callable[..., Tensor]
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def decoders(make_decoder: Callable[..., Decoder]) -> Sequence[Decoder]:
    return [make_decoder(seed) for seed in range(3)]


def codebook(decoders: Sequence[Decoder]) -> CodebookABS:
    return CodebookABS(decoders, draw_latents(50), biases=[0.0, -3.0, 0.5])


def make_abs(decoders: Sequence[Decoder]) -> ABS:
    settings = SearchSettings(steps=4, margin=9.0, fold_batch_norm=True)
    return ABS(codebook(decoders), settings, class_factors=[1, 0.9, 1.2])


def unfolded_abs(decoders: Sequence[Decoder]) -> ABS:
    return ABS(codebook(decoders), SearchSettings(steps=3))


MODELS: dict[str, Callable[[Sequence[Decoder]], PretrainedModel]] = {
    "abs": make_abs,
    "abs, batch norm unfolded": unfolded_abs,
    "codebook-abs": codebook,
    "binary abs": lambda decoders: Binarized(make_abs(decoders)),
    "cnn": lambda _: CNN(3),
    "binary cnn": lambda _: Binarized(CNN(3)),
    "strided cnn": lambda _: StridedCNN(3),
    "interval cnn": lambda _: IntervalCNN(3),
    "smoothed cnn": lambda _: SmoothedCNN(3, sigma=0.25),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prepared_first", [True, False])
def test_saved_and_loaded_a_model_answers_the_same(
    name: str, prepared_first: bool, decoders: Sequence[Decoder], make_images: MakeImages, tmp_path: Path
) -> None:
    model = MODELS[name](decoders).eval()
    if prepared_first:
        model.prepare()
    model.save_pretrained(tmp_path)
    model.prepare()
    loaded = load_folder(tmp_path)
    images = make_images(4)
    torch.testing.assert_close(loaded(images), model(images), rtol=1e-6, atol=1e-4)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.config() == model.config() or not prepared_first


def test_a_folder_holds_json_and_safetensors_alone(tmp_path: Path) -> None:
    CNN(3).save_pretrained(tmp_path, {"command": "absynth train cnn", "seed": 7})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "type": "cnn",
        "classes": 3,
        "sha256": hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest(),
        "training": {"command": "absynth train cnn", "seed": 7},
    }
    assert load_file(tmp_path / "model.safetensors").keys() == CNN(3).state_dict().keys()


def test_saving_again_replaces(tmp_path: Path) -> None:
    CNN(3).save_pretrained(tmp_path)
    CNN(5).save_pretrained(tmp_path)
    assert load_folder(tmp_path)(torch.zeros(1, 1, 28, 28)).shape == (1, 5)


def test_what_half_precision_holds_is_stored_in_it(make_images: MakeImages, tmp_path: Path) -> None:
    model = CNN(3).eval()
    model.save_pretrained(tmp_path / "whole")
    round_to_half(model)
    model.save_pretrained(tmp_path / "half")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_folder(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_what_half_precision_cannot_hold_is_refused() -> None:
    model = CNN(3)
    next(model.parameters()).data.flatten()[0] = 1e5
    with pytest.raises(AbsynthError, match="too large for half precision"):
        round_to_half(model)


def test_changes_replace_entries_of_the_config(decoders: Sequence[Decoder], tmp_path: Path) -> None:
    make_abs(decoders).save_pretrained(tmp_path)
    loaded = load_folder(tmp_path, {"settings": SearchSettings(steps=2).to_json()})
    assert isinstance(loaded, ABS)
    assert loaded.settings == SearchSettings(steps=2)


def test_models_can_share_one_file(
    decoders: Sequence[Decoder], make_images: MakeImages, tmp_path: Path
) -> None:
    plain = make_abs(decoders)
    plain.prepare()
    plain.save_pretrained(tmp_path / "abs")
    binary = tmp_path / "binary-abs"
    binary.mkdir()
    config = {"type": "binarized", "model": {"type": "abs", **plain.config()}}
    config |= {"weights": "../abs/model.safetensors", "prefix": "model."}
    (binary / "config.json").write_text(json.dumps(config))
    images = make_images(3)
    torch.testing.assert_close(load_folder(binary)(images), Binarized(plain)(images))


def test_a_model_may_use_a_part_of_a_shared_file(
    decoders: Sequence[Decoder], make_images: MakeImages, tmp_path: Path
) -> None:
    model = codebook(decoders)
    model.prepare()
    tensors = {f"codebook.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(tensors | {"unused": torch.zeros(3)}, tmp_path / "shared.safetensors")
    folder = tmp_path / "abs"
    folder.mkdir()
    settings = SearchSettings(steps=0)
    config = {"type": "abs", **ABS(model, settings).config(), "weights": "../shared.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_folder(folder)
    images = make_images(3)
    without_biases = model.losses(images) - torch.tensor(model.biases)
    torch.testing.assert_close(loaded(images), -without_biases * 440 / 784, rtol=1e-5, atol=1e-4)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return CNN(3).save_pretrained(tmp_path / "cnn")


def edit_config(folder: Path, edit: Edit) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(edit(config)))


def without_hash(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "sha256"}


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match=r"holds no config\.json.*save_pretrained"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"type": "cnn",}', ""])
def test_broken_json(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(AbsynthError, match="not valid JSON"):
        load_folder(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: [config], "JSON object"),
        (lambda config: config | {"type": "rnn"}, "type 'rnn'; known types: .*cnn"),
        (lambda config: {"classes": 3}, "type 'None'"),
        (lambda config: {"type": "cnn"}, "config of the 'cnn' model .*classes"),
        (lambda config: {"type": "cnn", "classes": "three"}, "config of the 'cnn' model"),
        (lambda config: {"type": "binarized", "model": 3}, "config of the 'binarized' model"),
        (lambda config: {"type": "binarized", "model": {"type": "rnn"}}, "type 'rnn'"),
        (lambda config: config | {"classes": 4}, "has shape .*asks for .*different models"),
        (lambda config: {"type": "binarized", "model": config}, r"lacks the tensor 'model\.layers"),
        (lambda config: config | {"prefix": "model."}, r"lacks the tensor 'layers\."),
        (
            lambda config: config | {"weights": "../elsewhere.safetensors"},
            "elsewhere.safetensors are missing",
        ),
    ],
)
def test_a_config_that_does_not_fit(saved: Path, edit: Edit, message: str) -> None:
    edit_config(saved, edit)
    with pytest.raises(AbsynthError, match=message):
        load_folder(saved)


def test_unknown_search_settings(decoders: Sequence[Decoder], tmp_path: Path) -> None:
    make_abs(decoders).save_pretrained(tmp_path)
    edit_config(tmp_path, lambda config: config | {"settings": {"walks": 3}})
    with pytest.raises(AbsynthError, match="walks"):
        load_folder(tmp_path)


def test_missing_weights(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(AbsynthError, match=r"model\.safetensors are missing"):
        load_folder(saved)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_damaged_weights(saved: Path, kept: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(AbsynthError, match="no intact safetensors file"):
        load_folder(saved)


def test_a_pickle_is_no_weights_file(saved: Path) -> None:
    torch.save(CNN(3).state_dict(), saved / "model.safetensors")
    with pytest.raises(AbsynthError, match="no intact safetensors file"):
        load_folder(saved)


def test_other_weights_than_the_config_is_for_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["layers.0.bias"] += 1
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(AbsynthError, match="is not the file that the config is for, whose SHA-256 begins"):
        load_folder(saved)
    edit_config(saved, without_hash)
    load_folder(saved)


def test_weights_that_are_a_program_are_never_run(saved: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (saved / "evil",)

    torch.save({"layers.0.bias": Evil()}, saved / "model.safetensors")
    with pytest.raises(AbsynthError, match="no intact safetensors file"):
        load_folder(saved)
    assert not (saved / "evil").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config | {"classes": 10**9}, "1000000000 classes were asked for"),
        (lambda config: config | {"classes": -1}, "-1 classes were asked for"),
        (lambda config: config | {"image_size": [10**9, 28]}, "sides from 16 to 64"),
        (lambda config: config | {"weights": ["a"]}, "are missing"),
        (lambda config: {"type": "nearest-neighbour", "shape": [10**6, 10**6, 784]}, "lacks the tensor"),
        (lambda config: {"type": "nearest-neighbour", "shape": [3]}, "lacks an entry or has a wrong one"),
        (
            lambda config: {
                "type": "codebook-abs",
                "classes": 3,
                "decoder": {"latents": 10**7},
                "codebook": [3, 10**9, 10**7],
            },
            "lacks the tensor",
        ),
        (
            lambda config: {
                "type": "codebook-abs",
                "classes": 3,
                "decoder": {"latents": 8},
                "codebook": [2, 5, 8],
            },
            r"codebook of shape \(2, 5, 8\); \(1 or 3, prototypes, 8\) is right",
        ),
        (
            lambda config: config | {"data": {"class_names": "", "size": [28, 28], "digits": True}},
            "0 classes were asked for",
        ),
        (
            lambda config: config | {"data": {"class_names": "abc", "size": [1e400, 28], "digits": True}},
            "lacks class_names, size or digits",
        ),
    ],
)
def test_a_config_that_asks_for_too_much_takes_no_memory(saved: Path, edit: Edit, message: str) -> None:
    edit_config(saved, edit)
    with pytest.raises(AbsynthError, match=message):
        load_folder(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"type": "cnn", "classes": ' + "9" * 5000 + "}"])
def test_json_that_is_deep_or_long(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(AbsynthError, match="not valid JSON"):
        load_folder(saved)


def test_a_model_behind_too_many_thresholds(saved: Path) -> None:
    config = '{"type": "binarized", "model": ' * 900 + '{"type": "cnn", "classes": 3}' + "}" * 900
    (saved / "config.json").write_text(config)
    with pytest.raises(AbsynthError, match=r"lacks an entry or has a wrong one|not valid JSON"):
        load_folder(saved)


def test_a_missing_tensor_is_named_and_counted(saved: Path) -> None:
    edit_config(saved, without_hash)
    weights = saved / "model.safetensors"
    tensors = load_file(weights)
    del tensors["layers.3.bias"], tensors["layers.9.weight"]
    save_file(tensors, weights)
    with pytest.raises(AbsynthError, match=r"lacks the tensor 'layers\.3\.bias' \(2 in all\)"):
        load_folder(saved)


def test_a_foreign_module_behind_the_threshold_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(AbsynthError, match="Linear cannot be saved"):
        Binarized(nn.Linear(2, 2)).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
