"""The benchmark's result as Markdown: the paper's Table 1 with our figures in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absynth.errors import AbsynthError
from absynth.evaluate.paper import SIZES, is_paper_data
from absynth.evaluate.runner import BenchmarkResult
from absynth.evaluate.summaries import summaries, thresholds
from absynth.files import check_writable, write_text
from absynth.norms import Norm
from absynth.report.tables import NAMES, describe_samples, format_figures, has_paper_figures, paper_figure

BOUNDS = (
    "Distances and accuracies under attack are upper bounds on robustness: an attack that finds nothing "
    "proves nothing, and a better one may find more. Misclassified images count as distance 0, images that "
    "no attack fooled as infinite."
)
BRACKETS = (
    "Figures in brackets are the paper's (Schott et al. 2019, arXiv 1805.09190, Table 1 and Figure 2), upper "
    "bounds too."
)


def check_markdown(path: Path) -> None:
    """Sees that Markdown can be written to ``path``, before anything long is started.

    Raises:
        AbsynthError: If it does not end in .md, or nothing can be written there.
    """
    if path.suffix != ".md" or path.is_dir():
        raise AbsynthError(f"'{path}' is no name for a Markdown file; end it in .md.")
    check_writable(path)


def write_markdown(path: Path, result: BenchmarkResult) -> None:
    """Writes :func:`results_markdown` to a file."""
    check_markdown(path)
    write_text(path, results_markdown(result))


def results_markdown(result: BenchmarkResult) -> str:
    """Clean accuracy, then for each norm medians and accuracies of every model beside the paper's figures.

    Accuracies are given at the benchmark's own thresholds, else, on MNIST, at all distances that the paper is
    read at.

    Args:
        result: Of a benchmark.
    """
    preset = result.preset
    sizes = {norm: _sizes(result, norm) for norm in preset.norms}
    by_model = summaries(result, sizes)
    clean = [
        [model, f"{result.clean_accuracy[model]:.2%}", f"`{result.weights[model][:12]}`"]
        for model in preset.models
    ]
    words = [f"Sample: {describe_samples(preset)}."]
    words += [BOUNDS] if preset.norms else []
    words += [BRACKETS] if has_paper_figures(preset) else []
    parts = [
        "# Robustness to attacks",
        " ".join(words),
        markdown_table(["model", "clean accuracy", "weights"], clean),
    ]
    for norm in preset.norms:
        rows = [
            [
                model,
                str(found[norm].images),
                *format_figures(found[norm], norm, paper_figure(preset, model, norm)),
            ]
            for model, found in by_model.items()
            if norm in found
        ]
        attacks = ", ".join(
            name if (count := preset.images_for(name)) == preset.images else f"{name} ({count} images)"
            for name in preset.attacks[norm]
        )
        parts += [
            f"## {NAMES[norm]}",
            f"The smallest adversarial of each image over all attacks that apply to the model: {attacks}.",
            markdown_table(["model", "images", "median", *(f"at {size:g}" for size in sizes[norm])], rows),
        ]
    return "\n\n".join(parts) + "\n"


def _sizes(result: BenchmarkResult, norm: Norm) -> tuple[float, ...]:
    if norm in result.preset.thresholds or norm not in SIZES or not is_paper_data(result.preset.dataset):
        return thresholds(result.preset, norm)
    return SIZES[norm]


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, first: str = "---", others: str = "---:"
) -> str:
    r"""A table in Markdown.

    Args:
        header: Of its columns.
        rows: Of the table.
        first: What says on which side the cells of the first column stand: "---" left, "---:" right.
        others: The same of the other columns.

    >>> print(markdown_table(["model", "median"], [["a|b", "1.0"]]))
    | model | median |
    | --- | ---: |
    | a\|b | 1.0 |
    """
    lines = [header, [first, *[others] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
