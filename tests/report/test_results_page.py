"""docs/results.md is what the kept records say."""

import json
import shutil
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from absynth.attacks import find_attack
from absynth.evaluate.config import read_preset
from absynth.evaluate.tasks import choose_images
from absynth.report.results import read_results

KEPT = Path(__file__).parents[2] / "docs" / "results" / "benchmark"
ELSEWHERE = {"fashion-mnist", "fast-search"}
"""Run files whose results are on other pages."""


@pytest.fixture
def tool(load_tool):
    """The module that keeps records and writes the page."""
    return load_tool("results", "results")


@pytest.fixture(scope="module")
def kept():
    """What is kept of the results, read once."""
    return read_results(KEPT)


def test_the_results_page_is_made_from_the_records_that_are_kept(tool, kept):
    assert tool.KEPT == KEPT
    assert tool.PAGE.read_text(encoding="utf-8") == tool.results_page(kept)


def test_the_run_files_say_what_was_run(tool, kept):
    records = [finding.record for finding in kept.findings]
    known = {(r.model, r.norm, r.attack, r.settings, r.index) for r in records}
    attacks = {(r.model, r.norm, r.attack) for r in records}
    asked = set()
    for path in sorted((tool.KEPT.parent / "runs").glob("*.toml")):
        if path.stem in ELSEWHERE:
            continue
        preset = read_preset(path)
        for model, (norm, names) in product(preset.models, preset.attacks.items()):
            for name in names:
                settings = json.dumps(find_attack(name, norm, preset.suite).settings, sort_keys=True)
                indices = choose_images(10_000, preset.images_for(name), preset.seed)
                if (model, norm, name) in attacks:
                    asked |= {(model, norm, name, settings, index) for index in indices}
    assert known - asked == set()
    assert asked - known == set()


def test_keeping_records_leaves_the_images_behind(small_results, tmp_path, tool):
    before = read_results(small_results.folder)
    for _ in range(2):
        tool.keep(small_results.folder, tmp_path / "kept")
    kept = read_results(tmp_path / "kept")
    assert {entry.name for entry in (tmp_path / "kept").iterdir()} == {"records", "clean"}
    assert len(list((tmp_path / "kept" / "records").iterdir())) == len(before.models)
    assert sorted(map(str, kept.findings)) == sorted(map(str, before.findings))
    assert kept.clean == before.clean
    assert "| all attacks |" in tool.results_page(kept)


def test_an_image_attacked_twice_counts_once(small_results, tmp_path, tool):
    twice = tmp_path / "twice"
    shutil.copytree(small_results.folder, twice)
    path = sorted((twice / "records").glob("*.parquet"))[0]
    table = pq.read_table(path)
    place = table.column_names.index("distance")
    farther = table.set_column(place, "distance", pc.add(table["distance"], pa.scalar(1.0)))
    pq.write_table(farther, twice / "records" / "another.parquet")
    tool.keep(small_results.folder, tmp_path / "once")
    tool.keep(twice, tmp_path / "kept")
    for once in (tmp_path / "once" / "records").iterdir():
        assert pq.read_table(once).equals(pq.read_table(tmp_path / "kept" / "records" / once.name))
