"""Table 1: medians and accuracies as computed by hand, and the same figures in every file."""

import csv
import io
import math
import statistics

from absynth.evaluate.paper import PAPER
from absynth.report.results import read_results
from absynth.report.table_one import ALL, CLEAN, FROM_PAPER, Cell, table_one, to_csv, to_latex, to_markdown


def rows_of(folder):
    return {(row.norm, row.name): row for group in table_one(read_results(folder)) for row in group.rows}


def test_medians_and_accuracies_by_hand(small_results):
    rows = rows_of(small_results.folder)
    for (model, norm, attack), found in small_results.distances.items():
        cell = rows[norm, attack].cells[model]
        threshold = {"l2": 1.5, "l0": 12.0}[norm]
        assert cell.median == statistics.median(found)
        assert cell.accuracy == sum(distance > threshold for distance in found) / len(found)
        assert cell.images == len(found)
    # over both attacks: 0, 0.5, 1.25, 1.5, 1.6, 2, 2.5, 3
    assert rows["l2", ALL].cells["cnn"] == Cell(1.55, 0.5, 8, best=False)
    assert rows["l2", ALL].cells["abs"].best
    for model, (right, images) in small_results.clean.items():
        assert rows[None, CLEAN].cells[model].accuracy == right / images


def test_the_papers_figures_stand_beside_ours(small_results):
    cell = rows_of(small_results.folder)["l2", FROM_PAPER].cells["abs"]
    assert cell.median == PAPER["abs"]["l2"].median
    assert cell.accuracy == PAPER["abs"]["l2"].accuracies[1.5]


def test_only_like_is_compared_with_like(put_records, small_results, tmp_path):
    rows = rows_of(small_results.folder)
    # the samples of the clean accuracy have different sizes, and one model has the attack alone
    assert not any(cell.best for cell in rows[None, CLEAN].cells.values())
    assert not any(cell.best for cell in rows["l2", "boundary"].cells.values())

    put_records(tmp_path, "cnn", "l2", "ddn", (1.0, 2.0), indices=(0, 1))
    put_records(tmp_path, "abs", "l2", "ddn", (3.0, 4.0), indices=(0, 2))
    assert not any(cell.best for cell in rows_of(tmp_path)["l2", "ddn"].cells.values())


def test_no_star_stands_at_what_another_attack_refutes(put_records, tmp_path):
    put_records(tmp_path, "cnn", "l2", "ddn", (1.0, 1.2), indices=(0, 1))
    put_records(tmp_path, "abs", "l2", "ddn", (3.0, 4.0), indices=(0, 1))
    assert rows_of(tmp_path)["l2", "ddn"].cells["abs"].best
    put_records(tmp_path, "cnn", "l2", "boundary", (2.0, 2.5), indices=(0, 1))
    put_records(tmp_path, "abs", "l2", "boundary", (0.5, 0.6), indices=(0, 1))
    rows = rows_of(tmp_path)
    for attack in ("ddn", "boundary"):
        assert not any(cell.best for cell in rows["l2", attack].cells.values()), attack
    assert rows["l2", ALL].cells["cnn"].best
    # an attack on fewer images is compared on these alone
    put_records(tmp_path, "cnn", "l0", "fmn", (5.0, 0.0), indices=(0, 1))
    put_records(tmp_path, "abs", "l0", "fmn", (7.0, 0.0), indices=(0, 1))
    put_records(tmp_path, "cnn", "l0", "pointwise", (4.0,), indices=(0,))
    put_records(tmp_path, "abs", "l0", "pointwise", (6.0,), indices=(0,))
    rows = rows_of(tmp_path)
    assert rows["l0", "pointwise"].cells["abs"].best
    assert not rows["l0", "fmn"].cells["abs"].best


def test_equal_cells_have_no_best(put_records, tmp_path):
    for model in ("cnn", "abs"):
        put_records(tmp_path, model, "l1", "ead", (1.0, math.inf), indices=(0, 1))
    row = rows_of(tmp_path)["l1", "ead"]
    assert row.cells == {model: Cell(math.inf, None, 2) for model in ("cnn", "abs")}


def test_every_file_has_the_same_figures(small_results):
    results = read_results(small_results.folder)
    groups = table_one(results)
    lines = list(csv.DictReader(io.StringIO(to_csv(groups))))
    rows = rows_of(small_results.folder)
    assert len(lines) == sum(len(row.cells) for row in rows.values())
    for line in lines:
        cell = rows[line["norm"] or None, line["attack"]].cells[line["model"]]
        assert float(line["accuracy"]) == cell.accuracy
        assert line["median"] == ("" if cell.median is None else str(cell.median))
        assert int(line["best"]) == cell.best

    markdown = to_markdown(groups, results.models).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert "| all attacks | 8 | **1.55** / 50% | **2.12** / 75% ★ |" in markdown

    latex = to_latex(groups, results.models).splitlines()
    assert r"all attacks & 8 & \textbf{1.55} / 50\,\% & \textbf{2.12} / 75\,\% $\star$ \\" in latex
    cells = [line for line in latex if line.endswith(r"\\") and not line.startswith(r"\multicolumn")]
    assert {line.count(" & ") for line in cells} == {3}


def test_names_are_escaped(put_records, tmp_path):
    put_records(tmp_path, "my_model|100%", "l1", "ead", (math.inf,), indices=(0,))
    results = read_results(tmp_path)
    groups = table_one(results)
    assert r"my\_model\|100%" in to_markdown(groups, results.models)
    latex = to_latex(groups, results.models)
    assert r"my\_model|100\%" in latex
    assert r"\textbf{$\infty$}" in latex
