"""The report: one page that holds everything, and its tables and figures as files beside it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from absynth.certify.summary import certified_accuracy
from absynth.errors import AbsynthError
from absynth.evaluate.distal import read_distal
from absynth.evaluate.paper import is_paper_data, paper_threshold
from absynth.evaluate.tasks import weights_hash
from absynth.files import check_folder, write_text
from absynth.inference.abs import ABS
from absynth.models.front import unwrap
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.report.curves import Certificates, Curve, curves_section, describe_method, proven
from absynth.report.drawing import Panel, Section, drawing_style, save_panel, to_svg
from absynth.report.figures.adversarials import originals, pixels_section, smallest_section
from absynth.report.figures.confidence import DIGITS, MODELS, confidence_section
from absynth.report.figures.courses import courses_section, has_courses
from absynth.report.figures.distal import USUAL, distal_section
from absynth.report.figures.latents import latents_section
from absynth.report.figures.synthesis import synthesis_section
from absynth.report.results import NORM_ORDER, Results, with_certificates
from absynth.report.table_one import (
    format_accuracy,
    format_median,
    sort_key,
    table_one,
    to_csv,
    to_latex,
    to_markdown,
)
from absynth.report.tables import NAMES, format_distance

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"
LIBRARIES = ("absynth", "torch", "numpy", "foolbox", "matplotlib")
BROAD = 5.0
"""Inches from which a drawing gets the whole width of the page."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: The page.
        remarks: What is missing on it and why.
    """

    page: Path
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class CertifiedRow:
    """A line of the table of certificates, as text.

    Attributes:
        model: Its name.
        norm: Of the radii.
        title: The norm as people write it.
        images: Sample size.
        median: Median radius.
        mean: Mean radius.
        accuracy: Certified accuracy at the threshold of Table 1, or at all.
        method: What proved the radii.
    """

    model: str
    norm: Norm
    title: str
    images: int
    median: str
    mean: str
    accuracy: str
    method: str


def certified_rows(certificates: Certificates, dataset: str) -> list[CertifiedRow]:
    """What is proven, a row each model and norm; estimates are left out.

    Args:
        certificates: By model.
        dataset: Name or path of the data; Table 1 has its thresholds on MNIST alone, for other data the share
            proven at all is given.
    """
    rows = []
    for model, records in proven(certificates).items():
        for norm in NORM_ORDER:
            own = [record for record in records if record.norm == norm]
            if not own:
                continue
            radii = torch.tensor([record.radius for record in own], dtype=torch.float64)
            size = paper_threshold(dataset, norm)
            if size is not None:
                share = f"{certified_accuracy(radii, size):.1%} at {size:g}"
            else:
                share = "" if is_paper_data(dataset) else f"{float((radii > 0).double().mean()):.1%} above 0"
            rows.append(
                CertifiedRow(
                    model,
                    norm,
                    NAMES[norm],
                    len(own),
                    format_distance(float(radii.quantile(0.5)), norm),
                    f"{float(radii.mean()):.3f}",
                    share,
                    ", ".join(sorted({describe_method(record) for record in own})),
                )
            )
    return rows


def write_report(
    results: Results,
    out: Path,
    *,
    certificates: Certificates,
    reference: Mapping[str, Mapping[Norm, Curve]],
    load_model: Callable[[str], nn.Module] | None,
    seed: int,
    progress: Progress,
) -> Report:
    """Writes the page ``index.html``, Table 1 as Markdown, LaTeX and CSV, and the figures as PDF and PNG.

    Args:
        results: Of a benchmark.
        out: Folder to write to; made if needed.
        certificates: By model, beside those of the benchmark; may be empty.
        reference: The paper's full curves; may be empty, and left out on other data than MNIST.
        load_model: Gives a model by its name, for the figures that show how it works; without it they are
            left out.
        seed: Of the random choice of what is shown.
        progress: Where to show the figures done and left.

    Raises:
        AbsynthError: If an optional package is missing, the folder cannot be written, or a record is damaged.
    """
    check_folder(out)
    template = _load_template()
    results = with_certificates(results, certificates)
    certificates = results.certificates
    with drawing_style():
        shown: dict[str, str] = {}
        sections = _sections(results, certificates, reference, load_model, seed, progress, shown)
        groups = table_one(results)
        exports = {
            "Markdown": to_markdown(groups, results.models),
            "LaTeX": to_latex(groups, results.models),
            "CSV": to_csv(groups),
        }
        for suffix, text in zip((".md", ".tex", ".csv"), exports.values(), strict=True):
            write_text(out / f"table-1{suffix}", text)
        drawings = {}
        for panel in (panel for section in sections for panel in section.panels):
            save_panel(panel, out / "figures")
            drawings[panel.name] = to_svg(panel)
        page = _render(
            template,
            title=f"Robustness on {results.dataset}: what attacks found and what is proven",
            models=results.models,
            groups=groups,
            thresholds=any(group.threshold is not None for group in groups),
            exports=exports,
            certified=certified_rows(certificates, results.dataset),
            sections=sections,
            drawings=drawings,
            weights=results.weights,
            origin=_origin(results, seed),
            changed=[*results.remarks, *changed_weights(results.weights, shown)],
        )
    write_text(out / "index.html", page)
    remarks = [f"{section.title}: {remark}" for section in sections for remark in section.remarks]
    every = (*results.remarks, *remarks, *changed_weights(results.weights, shown))
    return Report(out / "index.html", every)


def changed_weights(attacked: Mapping[str, str], shown: Mapping[str, str]) -> list[str]:
    """A remark on each model that a figure shows with other weights than were attacked.

    Args:
        attacked: Hash of each model in the records.
        shown: Hash of each model that was loaded.

    >>> changed_weights({"abs": "1" * 64}, {"abs": "2" * 64, "cnn": "3" * 64})
    ['abs: figures that load it show the weights 222222222222, the records are of 111111111111.']
    """
    return [
        f"{model}: figures that load it show the weights {weights[:12]}, "
        f"the records are of {attacked[model][:12]}."
        for model, weights in shown.items()
        if attacked.get(model, weights) != weights
    ]


def _sections(
    results: Results,
    certificates: Certificates,
    reference: Mapping[str, Mapping[Norm, Curve]],
    load_model: Callable[[str], nn.Module] | None,
    seed: int,
    progress: Progress,
    shown: dict[str, str],
) -> list[Section]:
    """All figures, in the order of the page; one that cannot be drawn has a remark alone.

    The hash of each model that was loaded is put into ``shown``.
    """

    @cache
    def load(name: str) -> nn.Module:
        if load_model is None:
            raise AbsynthError("no models were to be loaded.")
        model = load_model(name)
        shown[name] = weights_hash(model)
        return model

    on_mnist = is_paper_data(results.dataset)

    def explaining() -> str:
        """The model that shows how ABS works: on MNIST the shipped one, else the first that was attacked."""
        if on_mnist:
            return "abs"
        for name in results.models:
            try:
                if isinstance(unwrap(load(name)), ABS):
                    return name
            except AbsynthError:
                if load_model is None:
                    raise
        raise AbsynthError("no ABS was attacked.")

    makers: dict[str, tuple[str, Callable[[str, str], Section]]] = {
        "figure-1": (
            "Figure 1. What ABS does to an image",
            lambda key, title: synthesis_section(
                key, title, load, originals(results).images[:, 0], seed, explaining()
            ),
        ),
        "figure-2": (
            "Figure 2. Accuracy and the size of the change",
            lambda key, title: curves_section(
                key, title, results, certificates, reference if on_mnist else {}
            ),
        ),
        "figure-3": (
            "Figure 3. Smallest L2 adversarials found",
            lambda key, title: smallest_section(key, title, results, seed),
        ),
        "figure-4": (
            "Figure 4. Distal adversarials",
            lambda key, title: distal_section(
                key, title, read_distal(results.folder), USUAL if on_mnist else ()
            ),
        ),
        "figure-5": (
            "Figure 5. L0 adversarials from the four quarters of the distances",
            lambda key, title: pixels_section(key, title, results, seed),
        ),
        "courses": (
            "How near each attack had come, pass by pass",
            lambda key, title: courses_section(key, title, results, certificates),
        ),
        "latents": (
            "Samples and latent walks",
            lambda key, title: latents_section(key, title, load, seed, explaining()),
        ),
        "confidence": (
            "Confidence in digits, clothes and noise" if on_mnist else "Confidence in test images and noise",
            lambda key, title: confidence_section(
                key,
                title,
                load,
                originals(results).images[:, 0],
                seed,
                MODELS if on_mnist else results.models,
                DIGITS if on_mnist else "test images",
            ),
        ),
    }
    if not has_courses(results):
        del makers["courses"]
    bar = progress.add_task("report", total=len(makers), note="")
    sections = []
    for key, (title, make) in makers.items():
        progress.update(bar, note=title)
        try:
            sections.append(make(key, title))
        except AbsynthError as error:
            sections.append(Section(key, title, "", remarks=(f"Left out: {error}",)))
        progress.advance(bar)
    return sections


def _origin(results: Results, seed: int) -> dict[str, object]:
    records = [finding.record for finding in results.findings]
    return {
        "records": f"{len(records)} records",
        "images": len({record.index for record in records}),
        "dataset": results.dataset,
        "seeds": ", ".join(map(str, results.seeds)),
        "seed": seed,
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)]
        ),
        "settings": sorted({f"{NAMES[record.norm]} {record.attack} {record.settings}" for record in records}),
    }


def _load_template() -> Template:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise AbsynthError("The report needs jinja2; install absynth with the extra 'report'.") from None
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html")


def _render(template: Template, **content: object) -> str:
    parts = {
        "style": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "report.js").read_text(encoding="utf-8"),
        "format_median": format_median,
        "format_accuracy": format_accuracy,
        "sort_key": sort_key,
        "is_broad": is_broad,
    }
    return template.render(content | parts)


def is_broad(panel: Panel) -> bool:
    """Whether a drawing needs the whole width of the page."""
    return bool(panel.figure.get_figwidth() > BROAD)
