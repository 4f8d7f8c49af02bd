"""Table 1 in the paper's form, one row an attack and one column a model: on the page and as files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from absynth.evaluate.paper import IMAGES, PAPER, THRESHOLDS, is_paper_data, paper_threshold
from absynth.evaluate.summaries import summarize
from absynth.norms import Norm
from absynth.report.results import Finding, Results, distances
from absynth.report.tables import NAMES, format_distance

ALL = "all attacks"
CLEAN = "no attack"
FROM_PAPER = "all attacks, in the paper"


@dataclass(frozen=True)
class Cell:
    """One model in one row.

    Attributes:
        median: Median adversarial distance; None without an attack.
        accuracy: At the row's threshold; None if the norm has none.
        images: Sample size.
        best: Whether it is the best of its row, and no other attack of the table brought it further down.
    """

    median: float | None
    accuracy: float | None
    images: int
    best: bool = False


@dataclass(frozen=True)
class Row:
    """All models under one attack.

    Attributes:
        name: The attack, or ``ALL``, ``CLEAN``, ``FROM_PAPER``.
        norm: Of the attack; None without one.
        cells: By model; models that it was not run on are missing.
        same_images: Whether all cells are about the same images, so that they can be compared.
    """

    name: str
    norm: Norm | None
    cells: dict[str, Cell]
    same_images: bool = True

    @property
    def sample(self) -> str:
        """The sample size, or the range of it.

        >>> Row("ddn", "l2", {"cnn": Cell(1.0, 0.5, 20), "abs": Cell(2.0, 0.5, 10)}).sample
        '10 to 20'
        """
        sizes = self._sizes
        return f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"

    def sample_of(self, model: str) -> str:
        """The sample size of one cell, in brackets, where the row's differ; otherwise nothing.

        >>> row = Row("ddn", "l2", {"cnn": Cell(1.0, 0.5, 20), "abs": Cell(2.0, 0.5, 10)})
        >>> row.sample_of("abs"), Row("ddn", "l2", {"cnn": Cell(1.0, 0.5, 20)}).sample_of("cnn")
        ('(10)', '')
        """
        return f"({self.cells[model].images})" if len(self._sizes) > 1 else ""

    @property
    def _sizes(self) -> set[int]:
        return {cell.images for cell in self.cells.values()}


@dataclass(frozen=True)
class Group:
    """The rows of one norm, or those without an attack.

    Attributes:
        title: What it is called, the threshold included.
        rows: Its rows.
        threshold: At which its accuracies are; None without one.
    """

    title: str
    rows: tuple[Row, ...]
    threshold: float | None = None


def table_one(results: Results) -> tuple[Group, ...]:
    """The groups of Table 1: clean accuracy, then each norm with its attacks, all of them, and the paper.

    The paper's thresholds and figures are there on its data alone.
    """
    groups = []
    if results.clean:
        cells = {
            model: Cell(None, sample.right / sample.images, sample.images)
            for model, sample in sorted(results.clean.items(), key=lambda item: results.models.index(item[0]))
        }
        same = len({cell.images for cell in cells.values()}) == 1
        groups.append(Group("Clean accuracy", (_marked(Row(CLEAN, None, cells, same)),)))
    for norm in results.norms:
        size = paper_threshold(results.dataset, norm)
        rows = [_attack_row(results, norm, attack, size) for attack in (*results.attacks(norm), None)]
        if is_paper_data(results.dataset) and (paper := _paper_row(results, norm)):
            rows.append(paper)
        groups.append(Group(norm_title(norm, size), tuple(rows), size))
    return tuple(groups)


def norm_title(norm: Norm, threshold: float | None) -> str:
    """A norm with the threshold of its accuracies, if there is one.

    >>> norm_title("l0", 12.0), norm_title("l1", None)
    ('L0, accuracy at 12 pixels', 'L1')
    """
    if threshold is None:
        return NAMES[norm]
    return f"{NAMES[norm]}, accuracy at {threshold:g}" + (" pixels" if norm == "l0" else "")


def _attack_row(results: Results, norm: Norm, attack: str | None, threshold: float | None) -> Row:
    found = {model: results.smallest(model, norm, attack) for model in results.models}
    found = {model: findings for model, findings in found.items() if findings}
    cells = {model: _cell(findings, threshold) for model, findings in found.items()}
    samples = {tuple(finding.record.index for finding in findings) for findings in found.values()}
    row = _marked(Row(attack or ALL, norm, cells, len(samples) == 1))
    best = {model for model, cell in row.cells.items() if cell.best}
    stand = {
        model: replace(cell, best=model in best and _stands(results, cell, found[model], threshold))
        for model, cell in row.cells.items()
    }
    return replace(row, cells=stand)


def _stands(results: Results, cell: Cell, findings: Sequence[Finding], threshold: float | None) -> bool:
    """Whether no other attack made the figures of a cell smaller on the same images."""
    record = findings[0].record
    indices = {finding.record.index for finding in findings}
    every = results.smallest(record.model, record.norm)
    least = _cell([one for one in every if one.record.index in indices], threshold)
    return (least.median, least.accuracy) == (cell.median, cell.accuracy)


def _cell(findings: Sequence[Finding], threshold: float | None) -> Cell:
    sizes = [] if threshold is None else [threshold]
    summary = summarize(distances(findings), sizes)
    return Cell(summary.median, summary.accuracies[sizes[0]] if sizes else None, summary.images)


def _paper_row(results: Results, norm: Norm) -> Row | None:
    figures = {model: PAPER[model][norm] for model in results.models if norm in PAPER.get(model, {})}
    if not figures:
        return None
    size = THRESHOLDS[norm]
    cells = {model: Cell(figure.median, figure.accuracies[size], IMAGES) for model, figure in figures.items()}
    return _marked(Row(FROM_PAPER, norm, cells))


def _marked(row: Row) -> Row:
    """The row with its best cells marked, unless the cells cannot be compared or are all alike."""
    scores = {model: (cell.median or 0.0, cell.accuracy or 0.0) for model, cell in row.cells.items()}
    if not row.same_images or len(set(scores.values())) < 2:
        return row
    top = max(scores.values())
    cells = {model: replace(cell, best=scores[model] == top) for model, cell in row.cells.items()}
    return replace(row, cells=cells)


def format_median(cell: Cell, norm: Norm | None) -> str:
    """The median as the paper prints it; nothing without an attack."""
    return "" if cell.median is None or norm is None else format_distance(cell.median, norm)


def format_accuracy(cell: Cell) -> str:
    """The accuracy in whole percent, with a tenth where nothing attacks; nothing if there is no threshold."""
    if cell.accuracy is None:
        return ""
    return f"{cell.accuracy:.1%}" if cell.median is None else f"{cell.accuracy:.0%}"


def to_markdown(groups: Sequence[Group], models: Sequence[str]) -> str:
    """The table as Markdown: medians bold, the best of a row with a star."""
    lines = [
        "| | images | " + " | ".join(_escape_markdown(model) for model in models) + " |",
        "|---|---:|" + "---:|" * len(models),
    ]
    for group in groups:
        lines.append(f"| *{group.title}* | |" + " |" * len(models))
        for row in group.rows:
            texts = [_text(row, model, "**{}**", "★") for model in models]
            lines.append(f"| {_escape_markdown(row.name)} | {row.sample} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def to_latex(groups: Sequence[Group], models: Sequence[str]) -> str:
    """The table as a LaTeX ``tabular`` (package booktabs): medians bold, the best of a row with a star."""
    lines = [
        r"\begin{tabular}{lr" + "r" * len(models) + "}",
        r"\toprule",
        " & images & " + " & ".join(_escape_latex(model) for model in models) + r" \\",
    ]
    for group in groups:
        lines.append(r"\midrule")
        lines.append(rf"\multicolumn{{{len(models) + 2}}}{{l}}{{\emph{{{_escape_latex(group.title)}}}}} \\")
        for row in group.rows:
            cells = [_text(row, model, r"\textbf{{{}}}", r"$\star$") for model in models]
            texts = [text.replace("∞", r"$\infty$").replace("%", r"\,\%") for text in cells]
            lines.append(f"{_escape_latex(row.name)} & {row.sample} & " + " & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(groups: Sequence[Group]) -> str:
    """The table as CSV: a line each norm, attack and model, with all digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("norm", "attack", "model", "median", "threshold", "accuracy", "images", "best"))
    for group in groups:
        for row in group.rows:
            for model, cell in row.cells.items():
                # the writer leaves None empty
                figures = (cell.median, group.threshold, cell.accuracy, cell.images, int(cell.best))
                writer.writerow((row.norm, row.name, model, *figures))
    return buffer.getvalue()


def sort_key(cell: Cell) -> float:
    """What the page sorts a cell by: the median, or the accuracy where there is none; finite in any case."""
    value = cell.accuracy if cell.median is None else cell.median
    return 1e9 if value is None or math.isinf(value) else value


def _text(row: Row, model: str, bold: str, star: str) -> str:
    """A cell in one line: the median in bold, the accuracy, the sample size and the star, as far as there."""
    if model not in row.cells:
        return ""
    cell = row.cells[model]
    median = format_median(cell, row.norm)
    figures = [bold.format(median) if median else "", format_accuracy(cell)]
    parts = [" / ".join(filter(None, figures)), row.sample_of(model), star if cell.best else ""]
    return " ".join(filter(None, parts))


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("_", r"\_").replace("*", r"\*")


def _escape_latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text
