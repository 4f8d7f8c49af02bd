"""What docs/tools tries and measures for the page on the training for certificates, on small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from absynth.data.split import Validation
from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord, write_certificates
from absynth.inference import CodebookABS
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import Decoder
from absynth.progress import Progress
from absynth.training.augmentation import distort
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.certified.stage import train_for_certificates
from absynth.training.recipes.certified_binary_abs import STAGES as CERTIFIED_BINARY
from absynth.training.settings import TrainingSettings

DOCS = Path(__file__).parents[1] / "docs"
MODULES = (
    "study",
    "rounds",
    "variants",
    "ideas",
    "binary",
    "vaes",
    "nearest",
    "figure",
    "codebook",
    "cells",
    "final",
    "page",
)
COUNTS: dict[str, Any] = {
    "rounds": 3,
    "images": 40,
    "compared": 30,
    "batch_size": 10,
    "rivals": 3,
    "copies": 1,
}
SETTINGS = CertifiedSettings(learning_rate=1e-3, **COUNTS)
SIDE = 12


@pytest.fixture
def tools(load_tool: Callable[[str, str], ModuleType]) -> SimpleNamespace:
    """The modules of docs/tools/training."""
    return SimpleNamespace(**{name: load_tool("training", name) for name in MODULES})


@pytest.fixture
def bars() -> tuple[Tensor, Tensor]:
    """Noisy images of three classes: a bar at the left, in the middle or at the right, of some height."""
    labels = torch.arange(120) % 3
    images = torch.zeros(120, 1, SIDE, SIDE)
    for image, label, top in zip(images, labels.tolist(), torch.randint(1, 5, (120,)).tolist(), strict=True):
        image[0, top : top + 6, 1 + 4 * label : 3 + 4 * label] = 0.8
    return (images + 0.15 * torch.randn_like(images)).clamp(0, 1), labels


@pytest.fixture
def study(tools: SimpleNamespace, bars: tuple[Tensor, Tensor], tmp_path: Path) -> Any:
    """Of these images, a few of which are held out."""
    return tools.study.Study(
        *bars,
        tmp_path / "work",
        settings=SETTINGS,
        explaining=TrainingSettings(epochs=2, batch_size=10, learning_rate=2e-3, seed=0),
        hidden=(16,),
        prototypes=20,
        measured=12,
        validation=Validation(0.2),
    )


def test_what_is_measured_is_not_trained_on(study: Any, bars: tuple[Tensor, Tensor]) -> None:
    trained, held_out = study.validation.split(bars[1])
    assert torch.equal(study.trained[0], bars[0][trained])
    assert len(study.certified.unique()) == 12
    assert set(study.certified.tolist()) <= set(held_out.tolist())


@pytest.mark.parametrize(
    "settings", [SETTINGS, replace(CERTIFIED_BINARY[-1], **COUNTS)], ids=["grey", "binary"]
)
def test_the_rounds_are_those_of_the_package(
    tools: SimpleNamespace, study: Any, settings: CertifiedSettings, progress: Progress, tmp_path: Path
) -> None:
    start = study.start(progress)
    ours, theirs = start.decoders(), start.decoders()
    history = tools.variants.rounds(study, settings, progress, tools.rounds.Decoded(ours, 3), [start])
    expected = train_for_certificates(
        theirs,
        start.posterior,
        *study.trained,
        replace(settings, compared=20),
        checkpoint=tmp_path / "certified.pt",
        progress=progress,
        perturbation=distort,
    )
    assert history == expected
    assert len(history) == 3
    for mine, other in zip(nn.ModuleList(ours).parameters(), nn.ModuleList(theirs).parameters(), strict=True):
        assert torch.equal(mine, other)
    untouched = start.decoders()[0].state_dict()
    assert not torch.equal(untouched["layers.0.weight"], ours[0].state_dict()["layers.0.weight"])


def test_every_idea_is_tried_once(
    tools: SimpleNamespace, study: Any, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(study, settings=replace(SETTINGS, rounds=2))
    found = {
        name: tools.ideas.measure_idea(name, short, tmp_path / "ideas", progress)
        for name in tools.ideas.IDEAS
    }
    differing = {tuple(record["radii"]) for record in found.values()}
    assert len(differing) == len(found)
    for name, record in found.items():
        assert record["name"] == name
        assert len(record["radii"]) == record["certified"]["images"] == 12
        assert record["held_out"] == len(study.held_out)
        assert list(record["certified"]["accuracy"]) == ["1", "1.5", "1.58", "2", "2.5"]
        assert (record["loss"] is None) == (name == "untrained")
        assert ("pixels" in record) == tools.ideas.IDEAS[name].pixels
    monkeypatch.setattr(tools.variants, "run_rounds", Mock(side_effect=AssertionError("tried again")))
    assert tools.ideas.measure_idea("recipe", short, tmp_path / "ideas", progress) == found["recipe"]
    with pytest.raises(AssertionError, match="tried again"):
        tools.ideas.measure_idea("recipe", study, tmp_path / "ideas", progress)


def test_every_idea_for_binary_input_is_tried_once(
    tools: SimpleNamespace, study: Any, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # large steps, so that a few images of few pixels tell the ideas apart
    small = replace(tools.binary.SMALL_BINARY, **COUNTS, learning_rate=1e-2, pixels=8.0)
    monkeypatch.setattr(tools.binary, "SMALL_BINARY", small)
    grey = tools.binary.Grey(study)
    found = {
        name: tools.binary.measure_binary(name, grey, tmp_path / "binary", progress)
        for name in tools.binary.BINARY_IDEAS
    }
    losses = [record["loss"] for name, record in found.items() if name not in ("offsets", "rounded")]
    assert len(set(losses)) == len(losses)
    assert found["rounded"]["loss"] == found["offsets"]["loss"] == found["recipe"]["loss"]
    assert found["grey"]["loss"] is None
    for record in found.values():
        assert record["certified"]["images"] == 12
        assert list(record["certified"]["linf"]["accuracy"]) == ["0.1", "0.2", "0.3"]
        assert list(record["certified"]["l0"]["accuracy"]) == ["8", "12", "16"]
    text = tools.page.binary_table(tmp_path / "binary")
    assert text.startswith("| what differs | clean | Linf 0.1 | Linf 0.2 | Linf 0.3 | L0 8 | L0 12 | L0 16 |")
    assert text.count("\n") == 1 + len(found)
    monkeypatch.setattr(tools.variants, "run_rounds", Mock(side_effect=AssertionError("tried again")))
    again = tools.binary.measure_binary("recipe", tools.binary.Grey(study), tmp_path / "binary", progress)
    assert again == found["recipe"]


def test_prototypes_are_made_black_and_white(tools: SimpleNamespace, study: Any, progress: Progress) -> None:
    settings = replace(tools.binary.SMALL_BINARY, **COUNTS)
    grey = tools.binary.Grey(study)
    made, expected = (make(grey, settings, progress) for make in (tools.binary.rounded, tools.binary.recipe))
    assert torch.equal(made.prototypes, (expected.prototypes > 0.5).float())
    assert torch.equal(made.offsets, expected.offsets)


def test_free_prototypes_stay_images(tools: SimpleNamespace, study: Any, progress: Progress) -> None:
    outcome = tools.variants.free_prototypes(study, replace(SETTINGS, learning_rate=0.5), progress)
    assert outcome.prototypes.shape == (3, 20, SIDE**2)
    assert float(outcome.prototypes.min()) == 0.0
    assert float(outcome.prototypes.max()) == 1.0


def test_two_decoders_of_a_class_follow_each_other(
    tools: SimpleNamespace, study: Any, progress: Progress
) -> None:
    starts = [study.start(progress, seed) for seed in (0, 100)]
    book = tools.rounds.Decoded(tools.rounds.both_decoders(starts), 3, factor=2.0, biases=torch.arange(3.0))
    latents = torch.randn(6, 4, 8)
    prototypes, offsets = book.table(latents)
    assert prototypes.shape == (3, 8, SIDE**2)
    for label in range(3):
        for place in range(8):
            latent = latents[2 * label + place // 4, place % 4]
            decoder = starts[place // 4].vaes[label].decoder
            torch.testing.assert_close(prototypes[label, place], decoder(latent[None]).flatten())
            expected = latent.square().sum() + label - 1
            torch.testing.assert_close(offsets[label, place], expected)


def test_a_prior_says_nothing_at_first_and_then_something_of_each_latent(tools: SimpleNamespace) -> None:
    decoders = [Decoder(hidden=(6,)) for _ in range(2)]
    priors = [tools.variants.make_prior(8) for _ in range(2)]
    latents, entries = torch.randn(2, 5, 8), torch.tensor([7, 1, 1, 9])
    _, plain = tools.rounds.Decoded(decoders, 2).make(latents, entries)
    book = tools.rounds.Decoded(decoders, 2, priors=priors)
    assert torch.equal(book.make(latents, entries)[1], plain)
    for prior in priors:
        nn.init.normal_(prior[-1].weight)
    said = [priors[entry // 5](latents[entry // 5, entry % 5]) for entry in entries.tolist()]
    torch.testing.assert_close(book.make(latents, entries)[1], plain + torch.cat(said))


def test_the_ramp_gives_up_what_is_far_from_the_target(
    tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images: one just short of the target, the other lost; the other pulls far less."""
    prototypes = nn.Parameter(torch.tensor([[0.5, 0.0], [0.5, 4.0], [0.0, 0.5], [9.0, 0.5]]))
    images = torch.tensor([[0.5, 0.5], [8.5, 0.5]])
    pairs = tools.rounds.Pairs(
        torch.arange(2), torch.tensor([[0], [2]]), torch.tensor([[1], [3]]), torch.zeros(2)
    )
    monkeypatch.setattr(tools.rounds, "box_distance", lambda x, p, q, m: m / (2 * (q - p).norm(dim=-1)))
    make = tools.rounds.embed(prototypes, torch.zeros(4))
    settings = replace(SETTINGS, closeness=0.0, batch_size=2)
    optimizer = torch.optim.SGD([prototypes], lr=0.0)
    generator = torch.Generator()
    loss = tools.rounds.learn_ramp(pairs, images, make, settings, optimizer, generator)
    distances = torch.tensor([1.5, -4.0])
    assert loss == pytest.approx(float(torch.sigmoid(5 * (1.6 - distances)).mean()))
    assert prototypes.grad is not None
    pulls = prototypes.grad.to_dense().norm(dim=1)
    assert pulls[0] > 1000 * pulls[2]


def test_the_prototypes_that_win_most_often_are_kept(
    tools: SimpleNamespace, bars: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.variants, "bend", lambda images, generator: images)
    images = bars[0][:30]
    prototypes, offsets = torch.rand(1, 9, SIDE**2), torch.rand(1, 9)
    wins = tools.variants.count_wins((prototypes, offsets), images, torch.Generator())
    scores = (images.flatten(1)[:, None] - prototypes[0]).square().sum(2) + offsets
    assert torch.equal(wins, tools.variants.PRUNED_BY * scores.argmin(1).bincount(minlength=9))


def test_vaes_of_another_size_are_measured(
    tools: SimpleNamespace, study: Any, progress: Progress, tmp_path: Path
) -> None:
    record = tools.vaes.measure_size("small", tools.vaes.Size(4, (8,)), study, tmp_path, progress)
    assert record["weights"] == 4 * 8 + 8 + 8 * SIDE**2 + 1
    assert record["settings"]["size"] == {"latents": 4, "hidden": [8]}
    assert len(record["radii"]) == 12
    shorter = tools.vaes.with_short_training(study)
    assert (shorter.explaining.epochs, shorter.settings.rounds) == (15, 12)


def test_the_nearest_rival_is_that_of_plain_loops(tools: SimpleNamespace) -> None:
    prototypes, images = torch.rand(3, 5, 20), torch.rand(7, 20)
    labels = torch.arange(7) % 3
    heights = tools.nearest.Nearest(prototypes)(images, labels).detach()
    for image, label, height in zip(images, labels.tolist(), heights, strict=True):
        own = min(prototypes[label], key=lambda p: float((image - p).norm()))
        expected = min(
            float(((image - q).square().sum() - (image - own).square().sum()) / (2 * (q - own).norm()))
            for other in range(3)
            for q in prototypes[other]
            if other != label
        )
        assert float(height) == pytest.approx(expected, abs=1e-5)


def test_images_are_moved_by_whole_pixels(tools: SimpleNamespace) -> None:
    images = torch.rand(200, 1, 6, 5)
    moved = tools.nearest.shift(images, 1, torch.Generator().manual_seed(0))
    inside = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for before, after in zip(inside, moved, strict=True):
        (place,) = (
            (row, column)
            for row in range(3)
            for column in range(3)
            if torch.equal(before[:, row : row + 6, column : column + 5], after)
        )
        seen.add(place)
    assert len(seen) == 9


def test_nearest_prototypes_learn(
    tools: SimpleNamespace, study: Any, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tools.nearest.NearestSettings(prototypes=4, epochs=8, batch_size=10, learning_rate=2e-2)

    def train(name: str) -> tuple[Any, list[float], float | None]:
        result: tuple[Any, list[float], float | None] = tools.nearest.train_nearest(
            *study.trained, settings, checkpoint=tmp_path / name, progress=progress
        )
        return result

    whole, history, seconds = train("whole.pt")
    assert history[-1] < 0.9 * history[0]
    assert seconds is not None
    assert 0 <= float(whole.prototypes.detach().min()) <= float(whole.prototypes.detach().max()) <= 1
    with monkeypatch.context() as patched:
        moved = tools.nearest.shift
        calls = iter(range(40))

        def interrupted(*arguments: Any) -> Tensor:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            result: Tensor = moved(*arguments)
            return result

        patched.setattr(tools.nearest, "shift", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("parts.pt")
    resumed, again, _ = train("parts.pt")
    assert again == history
    assert torch.equal(resumed.prototypes, whole.prototypes)
    start, trained = (
        tools.nearest.measure_nearest(name, some, study, tmp_path / "nearest", progress)
        for name, some in (("untrained", replace(settings, epochs=0)), ("trained", settings))
    )
    assert start["loss"] is None
    assert trained["certified"]["mean"] > 1.02 * start["certified"]["mean"]


@pytest.fixture(params=["grey", "clamped"])
def model(request: pytest.FixtureRequest, study: Any, tmp_path: Path) -> Path:
    """The folder of a codebook of small decoders, by itself or behind a clamp."""
    decoders = [Decoder(8, False, (SIDE, SIDE), (16,)) for _ in range(3)]
    saved: PretrainedModel = CodebookABS(decoders, torch.randn(3, 50, 8))
    if request.param == "clamped":
        saved = Clamped(saved, 0.1)
    validation = {"share": study.validation.share, "seed": study.validation.seed}
    saved.save_pretrained(tmp_path / "model", {"validation": validation})
    return tmp_path / "model"


def test_a_model_that_was_trained_on_the_images_is_refused(
    tools: SimpleNamespace, study: Any, model: Path
) -> None:
    other = replace(study, validation=Validation(0.2, seed=1))
    with pytest.raises(AbsynthError, match="was trained on images that are measured here"):
        tools.codebook.load_held_out(model, other)


def test_a_codebook_is_measured_by_its_first_latents(
    tools: SimpleNamespace,
    study: Any,
    model: Path,
    progress: Progress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools.codebook, "CODEBOOK_SIZES", (10, 50, 80))
    loaded = tools.codebook.load_held_out(model, study)
    records = tools.codebook.measure_sizes(loaded, study, tmp_path / "sizes", progress)
    # Of the last, 30 latents a class more than are stored come from the encoders of the study's VAEs.
    assert [record["name"] for record in records] == ["10", "50", "80"]
    assert [record["bytes"] for record in records] == [4 * 3 * size * (SIDE**2 + 1) for size in (10, 50, 80)]
    whole = tools.codebook.load_held_out(model, study)
    images, labels = (part[study.certified] for part in (study.images, study.labels))
    assert records[1]["clean"] == float((whole(images).argmax(1) == labels).double().mean())


def test_the_page_has_what_was_measured(
    tools: SimpleNamespace,
    study: Any,
    model: Path,
    progress: Progress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, page = tmp_path / "records", tmp_path / "page.md"
    for name in ("recipe", "untrained"):
        tools.ideas.measure_idea(name, study, records / "ideas", progress)
    loaded = tools.codebook.load_held_out(model, study)
    monkeypatch.setattr(tools.codebook, "CODEBOOK_SIZES", (10, 50))
    monkeypatch.setattr(tools.page, "CODEBOOK_SIZES", (10, 50))
    tools.codebook.measure_sizes(loaded, study, records / "sizes", progress)
    loaded = tools.codebook.load_held_out(model, study)
    folder = records / "samples" / tools.codebook.sheet_name(loaded)
    record = tools.codebook.measure_samples(loaded, study, folder, progress)
    assert set(record["confidence"]) == {"digits", "noise", "permuted"}
    assert len(record["shown"]["noise"]) == 3
    markers = "\n".join(f"<!-- {name} -->\nold {name}\n<!-- /{name} -->" for name in tools.page.TABLES)
    page.write_text(f"# Title\n\n{markers}\nEnd\n")
    tools.page.write_page(page, records, tmp_path / "images")
    written = page.read_text()
    assert written.startswith("# Title\n")
    assert written.endswith("\nEnd\n")
    assert "old ideas" not in written
    assert "old vaes" in written
    assert "| the recipe | " in written
    assert "| no rounds: the decoders of the VAEs | " in written
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    names = ("certified-samples", "certified-sizes")
    assert sorted(drawn) == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    tools.page.write_page(page, records, tmp_path / "images")
    assert page.read_text() == written
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == drawn
    page.write_text(f"# Title\n\n{markers}\n".replace("<!-- /sizes -->", ""))
    with pytest.raises(AbsynthError, match="needs the markers <!-- sizes --> and <!-- /sizes -->"):
        tools.page.write_page(page, records, tmp_path / "images")


def test_samples_of_a_model_for_black_and_white_images_are_drawn_apart(
    tools: SimpleNamespace, study: Any, model: Path, progress: Progress, tmp_path: Path
) -> None:
    grey = tools.codebook.load_held_out(model, study)
    binary = tmp_path / "binary"
    validation = {"share": study.validation.share, "seed": study.validation.seed}
    Binarized(tools.codebook.codebook_of(grey)).save_pretrained(binary, {"validation": validation})
    with pytest.raises(AbsynthError, match="is for black and white images"):
        tools.codebook.load_held_out(binary, study)
    records, page = tmp_path / "records", tmp_path / "page.md"
    for loaded in (grey, tools.codebook.load_held_out(binary, study, binary=True)):
        folder = records / "samples" / tools.codebook.sheet_name(loaded)
        record = tools.codebook.measure_samples(loaded, study, folder, progress)
        assert record["settings"].get("binary", False) == (loaded is not grey)
    page.write_text("\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in tools.page.TABLES))
    tools.page.write_page(page, records, tmp_path / "images")
    drawn = sorted(path.name for path in (tmp_path / "images").glob("*.png"))
    assert drawn == ["certified-binary-samples.png", "certified-samples.png"]


def test_what_is_proven_of_test_images_is_counted_from_the_radii(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    assert tools.final.final_table(tmp_path) is None
    radii = {
        "l2": [1.5, 1.6, 0.0, 2.5],
        "l1": [0.9, 5.0, 0.0, 9.0],
        "linf": [0.2, 0.1, 0.0, 0.05],
        "l0": [11, 12, 0, 13],
    }
    rows = [
        CertificateRecord(index, 1, 2 if index == 2 else 1, norm, float(one), "pairwise", False)
        for norm, values in radii.items()
        for index, one in reversed(list(enumerate(values)))
    ]
    write_certificates(rows, tmp_path / "certified-abs-certificates.parquet")
    text = tools.final.final_table(tmp_path)
    for figure in (
        "images | 4",
        "clean | 75.00 %",
        "L2, certified at 1.5 | 75.00 %",
        "L2, certified at 1.58 | 50.00 %",
        "L2, median | 1.550",
        "L0, certified at 12 pixels | 50.00 %",
        "Linf, certified at 0.1 | 50.00 %",
        "L1 1, L2 0.3 and Linf 0.1 at once | 25.00 %",
    ):
        assert f"| {figure} |" in text
    assert "certified-binary-abs" not in text


def test_what_was_drawn_is_read_back(tools: SimpleNamespace, tmp_path: Path) -> None:
    sheet = tools.figure.Sheet(*(torch.rand(6, 4, 1, 5, 7)))
    tools.figure.save_sheet(sheet, tmp_path / "sheet.png")
    for before, after in zip(sheet, tools.figure.read_sheet(tmp_path / "sheet.png", 4), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1 / 100)
    (tmp_path / "sheet.png").write_bytes(b"no picture")
    with pytest.raises(AbsynthError, match="is no sheet of samples"):
        tools.figure.read_sheet(tmp_path / "sheet.png", 4)


def test_a_difference_comes_with_its_error(tools: SimpleNamespace) -> None:
    record, other = {"radii": [1.0, 2.0, 3.0, 4.0]}, {"radii": [0.5, 1.5, 2.5, 4.5]}
    assert tools.page.compare(record, other) == "+0.250 ± 0.250"


def test_the_tables_of_the_page_are_made_from_the_records_that_are_kept(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    kept = (DOCS / "training-for-certificates.md").read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(kept, encoding="utf-8")
    tools.page.write_page(page, DOCS / "results" / "training", tmp_path / "images")
    assert page.read_text(encoding="utf-8") == kept
    drawn = {path.name for path in (tmp_path / "images").iterdir()}
    assert drawn == {path.name for path in (DOCS / "images").glob("certified-*")}
