"""docs/results.md is what the kept records say."""

from pathlib import Path

from absynth.report.results import read_results

TOOLS = Path(__file__).parents[2] / "docs" / "tools"


def test_the_results_page_is_made_from_the_records_that_are_kept(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from results import KEPT, PAGE, results_page

    assert PAGE.read_text(encoding="utf-8") == results_page(read_results(KEPT))


def test_keeping_records_leaves_the_images_behind(small_results, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from results import keep, results_page

    before = read_results(small_results.folder)
    for _ in range(2):
        keep(small_results.folder, tmp_path / "kept")
    kept = read_results(tmp_path / "kept")
    assert {entry.name for entry in (tmp_path / "kept").iterdir()} == {"records", "clean"}
    assert len(list((tmp_path / "kept" / "records").iterdir())) == len(before.models)
    assert sorted(map(str, kept.findings)) == sorted(map(str, before.findings))
    assert kept.clean == before.clean
    assert "| all attacks |" in results_page(kept)
