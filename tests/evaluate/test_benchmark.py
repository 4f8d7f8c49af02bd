"""The benchmark: its records, its choice of images, and going on after an interruption."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import absynth
from absynth.attacks import suite_attacks
from absynth.data import Dataset
from absynth.errors import AbsynthError
from absynth.evaluate import runner
from absynth.evaluate.attacks import choose_attacks
from absynth.evaluate.paper import PAPER, SIZES, THRESHOLDS
from absynth.evaluate.runner import BenchmarkResult, run_benchmark
from absynth.evaluate.smallest import smallest_distances
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.summaries import ALL, attack_rows, summaries, summarize
from absynth.evaluate.tasks import (
    PRESETS,
    Preset,
    Task,
    choose_images,
    data_hash,
    find_preset,
    plan,
    weights_hash,
)
from absynth.models.cnn import CNN, Binarized
from absynth.progress import progress_display
from absynth.zoo import model_names

PRESET = Preset(
    models=("linear",),
    suite="quick",
    attacks={"linf": ("fgsm", "bim"), "l0": ("pointwise",)},
    images=6,
    clean_images=20,
    shard=3,
)


class Linear(nn.Module):
    """Class 0 where the image is darker than 0.1 in the mean, else class 7: wrong for most digits."""

    def __init__(self, threshold: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images.flatten(1).mean(1)
        logits = torch.full((len(images), 10), -1.0)
        pair = torch.stack([self.threshold - brightness, brightness - self.threshold], dim=1)
        return torch.cat([pair[:, :1], logits[:, 1:7], pair[:, 1:], logits[:, 8:]], dim=1)


def load_linear(_: str) -> nn.Module:
    return Linear()


def run(store: ResultStore, preset: Preset = PRESET) -> BenchmarkResult:
    with progress_display(False) as progress:
        return run_benchmark(preset, store, progress, load_model=load_linear)


def contents(store: ResultStore) -> dict[str, bytes]:
    """Every file of a store but the times."""
    return {
        str(path.relative_to(store.folder)): path.read_bytes()
        for path in sorted(store.folder.rglob("*"))
        if path.is_file() and path.parent.name != "seconds"
    }


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = ResultStore(tmp_path / "whole")
    expected = run(whole)

    interrupted = ResultStore(tmp_path / "interrupted")
    original, calls = runner.run_task, []

    def dies_in_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(runner, "run_task", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    monkeypatch.setattr(runner, "run_task", original)
    result = run(interrupted)

    assert contents(interrupted) == contents(whole)
    assert result.records == expected.records


def test_a_finished_run_attacks_nothing_again(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    first = run(store)
    monkeypatch.setattr(runner, "run_task", lambda *_: pytest.fail("this was done already"))
    assert run(store) == first


def test_records_are_complete_and_true(tmp_path):
    store = ResultStore(tmp_path)
    result = run(store)
    assert len(result.records) == 3 * PRESET.images
    assert set(result.seconds) == {task.key for task in result.tasks}
    assert min(result.seconds.values()) > 0
    model = Linear()
    for task in result.tasks:
        adversarials = store.adversarials(task)
        for record, image in zip(store.records([task]), adversarials, strict=True):
            assert record.attack == task.attack
            if math.isfinite(record.distance):
                assert int(model(image[None]).argmax()) != record.label


def test_the_smallest_adversarial_of_each_image_is_kept(tmp_path):
    result = run(ResultStore(tmp_path))
    images, _ = absynth.load_dataset("mnist", "test")
    attacked = [record for record in result.records if record.norm == "linf"]
    (path,) = (tmp_path / "smallest").glob("*-linf-*.safetensors")
    kept = load_file(path)
    assert torch.equal(kept["distances"], smallest_distances(attacked, "linear", "linf"))
    found = kept["distances"].isfinite()
    moved = (kept["adversarials"].double() - images[kept["indices"]].double()).abs().flatten(1).amax(1)
    assert torch.equal(moved[found], kept["distances"][found])
    fooled = Linear()(kept["adversarials"][found]).argmax(1)
    assert (fooled != kept["labels"][found]).all()
    names = ("fgsm", "bim")
    for index, distance, attack in zip(
        kept["indices"].tolist(), kept["distances"].tolist(), kept["attack"].tolist(), strict=True
    ):
        assert any(
            (record.index, record.attack, record.distance) == (index, names[attack], distance)
            for record in attacked
        )


def make_plan(model: nn.Module, name: str = "linear", data: str = "d", preset: Preset = PRESET) -> list[Task]:
    weights, shape = weights_hash(model), torch.Size((1, 28, 28))
    attacks, indices = choose_attacks(preset), range(preset.images)
    return plan(preset, attacks, name, model, weights=weights, data=data, indices=indices, shape=shape)


def test_other_weights_or_images_are_other_tasks():
    keys = {task.key for task in make_plan(Linear(0.1))}
    assert [task.key for task in make_plan(Linear(0.1))] == [
        task.key for task in make_plan(Linear(0.1), name="another name")
    ]
    assert not keys & {task.key for task in make_plan(Linear(0.2))}
    assert not keys & {task.key for task in make_plan(Linear(0.1), data="other")}


def test_a_module_without_a_config_is_told_apart_by_how_it_prints():
    assert weights_hash(nn.Conv2d(1, 1, 3, stride=1).apply(_blank)) != weights_hash(
        nn.Conv2d(1, 1, 3, stride=2).apply(_blank)
    )


def _blank(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def test_other_pixels_or_labels_are_other_data():
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    assert data_hash(images, labels) == data_hash(images.clone(), labels.clone())
    assert data_hash(images, labels) != data_hash(images, labels.flip(0))
    assert data_hash(images, labels) != data_hash(images + 1, labels)
    assert data_hash(images, labels) != data_hash(images.view(2, 1, 1, 4), labels)


def test_an_attack_may_get_fewer_images():
    preset = replace(PRESET, fewer_images={"fgsm": 2, "pointwise": 100})
    counts: dict[str, int] = {}
    for task in make_plan(Linear(), preset=preset):
        counts[task.attack] = counts.get(task.attack, 0) + len(task.indices)
    assert counts == {"fgsm": 2, "bim": 6, "pointwise": 6}


def test_an_attack_stands_in_for_others_where_it_applies():
    attacks = {"linf": ("bim", "threshold"), "l2": ("ddn",), "l0": ("fmn", "threshold")}
    preset = replace(PRESET, suite="broad", attacks=attacks, instead_of={"threshold": ("bim", "ddn")})

    def planned(model: nn.Module) -> set[tuple[str, str]]:
        return {(task.norm, task.attack) for task in make_plan(model, preset=preset)}

    both = {("l2", "ddn"), ("l0", "fmn")}
    assert planned(CNN(2)) == both | {("linf", "bim")}
    assert planned(Binarized(CNN(2))) == both | {("linf", "threshold"), ("l0", "threshold")}


def test_attacks_that_do_not_apply_are_left_out():
    preset = replace(PRESET, suite="strong", attacks={"linf": ("fgsm", "latent-descent")})
    assert {task.attack for task in make_plan(CNN(2), preset=preset)} == {"fgsm"}


def test_a_norm_without_attacks_is_missing(tmp_path):
    preset = replace(PRESET, suite="strong", attacks={"linf": ("fgsm",), "l2": ("latent-descent",)})
    result = run(ResultStore(tmp_path), preset)
    assert set(summaries(result)["linear"]) == {"linf"}
    assert attack_rows(result, "linear", "l2") == []


def test_results_need_a_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AbsynthError, match="is a file"):
        ResultStore(path)
    assert path.read_text() == "mine"


def test_the_choice_of_images_is_fixed_and_nested():
    assert choose_images(100, 10, 3) == choose_images(100, 50, 3)[:10]
    assert choose_images(100, 10, 3) != choose_images(100, 10, 4)
    assert sorted(choose_images(100, 100, 0)) == list(range(100))
    for count in (0, 101):
        with pytest.raises(AbsynthError, match="ask for 1 to 100"):
            choose_images(100, count, 0)


def record(model: str, index: int, distance: float, attack: str = "a") -> Record:
    return Record(model, "w", "l2", attack, "{}", "mnist", 0, index, 1, distance, 5)


def test_the_smallest_distance_over_attacks_counts():
    records = [
        record("m", 4, 2.0),
        record("m", 1, math.inf),
        record("m", 4, 1.0, "b"),
        record("m", 1, math.inf, "b"),
        record("other", 4, 0.5),
    ]
    assert smallest_distances(records, "m", "l2").tolist() == [math.inf, 1.0]


def test_median_and_accuracy_by_hand():
    summary = summarize(torch.tensor([0.0, 1.0, 1.5, 2.0, math.inf], dtype=torch.float64), [1.5, 2.5])
    assert (summary.median, summary.accuracies, summary.images) == (1.5, {1.5: 0.4, 2.5: 0.2}, 5)
    assert summarize(torch.tensor([1.0, math.inf, math.inf, math.inf]), [1.5]).median == math.inf


def test_every_attack_has_a_row_and_all_of_them_another():
    tasks = [
        Task("m", "w", "l2", "a", "{}", "mnist", "d", (4, 1), 0),
        Task("m", "w", "l2", "b", "{}", "mnist", "d", (4,), 0),
    ]
    records = [record("m", 4, 2.0), record("m", 1, math.inf), record("m", 4, 1.0, "b")]
    preset = replace(PRESET, models=("m",), attacks={"l2": ("a", "b")}, images=2)
    result = BenchmarkResult(preset, {"m": 1.0}, {"m": "w"}, tasks, records, {tasks[0].key: 3.0})
    rows = attack_rows(result, "m", "l2")
    assert [row.attack for row in rows] == ["a", "b", ALL]
    assert [row.summary.median for row in rows] == [math.inf, 1.0, math.inf]
    assert [row.summary.accuracies for row in rows] == [{1.5: 1.0}, {1.5: 0.0}, {1.5: 0.5}]
    assert [row.summary.images for row in rows] == [2, 1, 2]
    assert [row.queries for row in rows] == [5.0, 5.0, 7.5]
    assert [row.seconds for row in rows] == [1.5, None, None]


def test_the_clean_accuracy_alone(tmp_path):
    preset = Preset(models=("linear",), suite="quick", attacks={}, images=1, clean_images=50)
    result = run(ResultStore(tmp_path), preset)
    chosen = list(choose_images(10_000, 50, 0))
    images, labels = absynth.load_dataset("mnist", "test")
    right = (Linear()(images[chosen]).argmax(1) == labels[chosen]).double().mean()
    assert result.clean_accuracy == {"linear": float(right)}
    assert result.records == []


def test_the_clean_accuracy_takes_what_images_there_are(tmp_path, monkeypatch):
    images, labels = absynth.load_dataset("mnist", "test")
    few = Dataset(images[:30], labels[:30], tuple("0123456789"))
    monkeypatch.setattr(runner, "read_for", lambda *_: few)
    result = run(ResultStore(tmp_path), replace(PRESET, attacks={}, clean_images=1000))
    assert result.preset.clean_images == 30
    with pytest.raises(AbsynthError, match="31 images were asked for; the data set has 30"):
        run(ResultStore(tmp_path), replace(PRESET, images=31))


def test_presets_and_the_papers_figures_fit_together():
    quick = find_preset("quick")
    assert quick is PRESETS["quick"]
    assert set(quick.norms) <= set(THRESHOLDS)
    for figures in PAPER.values():
        assert set(figures) == set(THRESHOLDS) == set(SIZES)
        for norm, figure in figures.items():
            shares = list(figure.accuracies.values())
            assert THRESHOLDS[norm] in figure.accuracies
            assert shares == sorted(shares, reverse=True)
            below = [size for size, share in figure.accuracies.items() if share > 0.5]
            assert max(below, default=0) <= figure.median
    with pytest.raises(AbsynthError, match="choose one of clean, quick, standard, attacks, paper"):
        find_preset("quik")


def test_the_large_presets_have_every_model_and_attack():
    for name, suite, images in (("standard", "strong", 100), ("paper", "paper", 1000)):
        preset = find_preset(name)
        assert preset.models == model_names()
        assert preset.images == images
        for norm in ("l2", "linf", "l0"):
            assert preset.attacks[norm] == tuple(attack.name for attack in suite_attacks(suite, norm))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": ()}, "at least one model"),
        ({"images": 0}, "at least one model and one image"),
        ({"fewer_images": {"fgsm": 0}}, "at least one model and one image"),
        ({"models": ("a", "a")}, "named twice"),
        ({"seed": -1}, "seed is -1"),
        ({"fewer_images": {"ddn": 2}}, "'ddn', which is none of the attacks"),
        ({"thresholds": {"l2": (0.0, 1.0)}}, "thresholds of l2"),
        ({"thresholds": {"l2": ()}}, "thresholds of l2"),
        ({"thresholds": {"l2": (math.nan,)}}, "thresholds of l2"),
    ],
)
def test_a_preset_that_does_not_fit_together(changes, sentence):
    with pytest.raises(AbsynthError, match=sentence):
        replace(PRESET, **changes)


@pytest.mark.parametrize(("classes", "attacks"), [(10, {"transfer", "fgsm"}), (26, {"fgsm"}), (2, {"fgsm"})])
def test_transfer_is_left_out_where_the_shipped_network_has_other_classes(classes, attacks):
    preset = replace(PRESET, suite="paper", attacks={"linf": ("transfer", "fgsm")})
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
    assert {task.attack for task in make_plan(model, preset=preset)} == attacks
