"""Figure 2: how accuracy falls with the size of the change, as attacked and as proven."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.paper import IMAGES, PAPER, is_paper_data
from absynth.norms import NORMS, Norm
from absynth.report.drawing import Panel, Section, model_styles, new_figure
from absynth.report.results import Finding, Results, distances, model_order
from absynth.report.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Certificates = Mapping[str, Sequence[CertificateRecord]]
"""Records of certificates, by model."""

LIMITS: dict[Norm, float] = {"l2": 4.0, "linf": 0.5, "l0": 50.0, "l1": 40.0}
"""Where the axis of each norm ends on MNIST, near the end of the paper's."""

PANEL_HEIGHT, LINE_HEIGHT = 2.8, 0.15
"""Inches of a panel without its legend, and of a line of that."""

BESIDE = 26
"""Characters of the longest name at which two columns of the legend fit below a panel."""

REFERENCE_NAMES = {
    "CNN": "cnn",
    "Binary CNN": "binary-cnn",
    "Nearest Neighbor": "nearest-neighbour",
    "Madry et al.": "madry",
    "Binary ABS": "binary-abs",
    "ABS": "abs",
}
"""What a file of the paper's curves calls the models of our zoo."""


@dataclass(frozen=True)
class Curve:
    """Accuracy by the size of the change, which only falls, in steps.

    Attributes:
        sizes: Where it may fall, ascending from 0.
        accuracies: Fractions of images, one a size.
    """

    sizes: list[float]
    accuracies: list[float]


def attack_curve(found: Tensor, limit: float) -> Curve:
    """The fraction of images with no adversarial found at or below a size: an upper bound on robustness.

    Each accuracy holds from its size up to the next.

    Args:
        found: Adversarial distances, shape (images,).
        limit: Where to end.

    >>> attack_curve(torch.tensor([0.0, 1.0, torch.inf, 2.0]), 1.5)
    Curve(sizes=[0.0, 1.0, 1.5], accuracies=[0.75, 0.5, 0.5])
    """
    inside = found[(found > 0) & (found < limit)].unique().tolist()
    sizes = [0.0, *inside, limit]
    return Curve(sizes, [float((found > size).double().mean()) for size in sizes])


def certified_curve(radii: Tensor, limit: float) -> Curve:
    """The fraction of images that are right and proven to stay so: a lower bound on robustness.

    Each accuracy holds from the size before, not included, up to its own; the first holds near 0.

    Args:
        radii: Proven radii, 0 where the prediction is wrong, shape (images,).
        limit: Where to end.

    >>> certified_curve(torch.tensor([0.0, 1.0, 2.0, 1.0]), 1.5)
    Curve(sizes=[0.0, 1.0, 1.5], accuracies=[0.75, 0.75, 0.25])
    """
    inside = radii[(radii > 0) & (radii < limit)].unique().tolist()
    proven = [float((radii >= size).double().mean()) for size in (*inside, limit)]
    return Curve([0.0, *inside, limit], [float((radii > 0).double().mean()), *proven])


def read_reference(path: Path) -> dict[str, dict[Norm, Curve]]:
    """The paper's full curves from a file, by model and norm.

    Args:
        path: JSON of the form ``{"L2": {"models": {"ABS": {"distance": [...], "accuracy": [...]}}}}``, with
            accuracies in percent.

    Raises:
        AbsynthError: If it cannot be read or has another form.
    """
    found: dict[str, dict[Norm, Curve]] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for title, panel in content.items():
            norm = next(norm for norm in NORMS if NAMES[norm] == title)
            for name, values in panel["models"].items():
                accuracies = [float(value) / 100 for value in values["accuracy"]]
                curve = Curve([float(value) for value in values["distance"]], accuracies)
                if len(curve.sizes) != len(accuracies):
                    raise ValueError("as many distances as accuracies are right")
                found.setdefault(REFERENCE_NAMES[name], {})[norm] = curve
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        StopIteration,
        RecursionError,
    ):
        raise AbsynthError(
            f"{path} holds no accuracy-distortion curves; give a JSON file with norm, models, distance and "
            "accuracy."
        ) from None
    return found


def proven(certificates: Certificates) -> dict[str, list[CertificateRecord]]:
    """The certificates that are proofs; the paper's own bound is an estimate and is none."""
    kept = {
        model: [record for record in records if record.method != "paper"]
        for model, records in certificates.items()
    }
    return {model: records for model, records in kept.items() if records}


def describe_method(record: CertificateRecord) -> str:
    """What proved a radius, with the probability that it holds if it is not certain.

    >>> describe_method(CertificateRecord(0, 7, 7, "l2", 1.0, "smoothing", False, confidence=0.999))
    'smoothing, with a probability of 99.9 %'
    """
    if record.confidence is None:
        return record.method
    return f"{record.method}, with a probability of {100 * record.confidence:.8g} %"


def contradictions(results: Results, certificates: Certificates) -> list[str]:
    """Images with an adversarial found within their proven radius, in words; there must be none.

    A radius with a probability is of a majority over random copies, which is not what was attacked.
    """
    found = []
    for model, records in proven(certificates).items():
        for norm in results.norms if model in results.models else ():
            attacked = {f.record.index: f.record.distance for f in results.smallest(model, norm)}
            for record in records:
                distance = attacked.get(record.index, torch.inf)
                certain = record.confidence is None
                if certain and record.norm == norm and record.radius > 0 and distance <= record.radius:
                    found.append(
                        f"{model}, image {record.index}: an adversarial at {NAMES[norm]} {distance:g} lies "
                        f"within the radius {record.radius:g} given as proven; certificate and attack do not "
                        "belong to the same model, or one of them is wrong."
                    )
    return found


def curves_section(
    key: str,
    title: str,
    results: Results,
    certificates: Certificates,
    reference: Mapping[str, Mapping[Norm, Curve]],
) -> Section:
    """Figure 2, one panel a norm.

    Args:
        key: Anchor.
        title: Heading.
        results: Of the attacks.
        certificates: Of any models, attacked or not; may be empty.
        reference: The paper's full curves; may be empty.
    """
    proofs = proven(certificates)
    remarks = contradictions(results, certificates)
    for model in certificates:
        if any(record.method == "paper" for record in certificates[model]):
            remarks.append(f"{model}: the paper's own bound is an estimate, not a proof, and is left out.")
    if not proofs:
        remarks.append(
            "Certified accuracy is left out: the benchmark certified no model (bench --certify), and no "
            "certificates were given (--certificates)."
        )
    every = tuple(sorted({*results.models, *proofs, *reference}, key=model_order))
    panels = []
    for norm in results.norms:
        panel, notes = _panel(norm, every, results, proofs, reference)
        panels.append(panel)
        remarks += notes
    lines, hollow = "Lines", ""
    if is_paper_data(results.dataset):
        lines = "Lines with filled marks"
        hollow = f" Hollow marks: the paper's figures ({IMAGES} images){_dashed(reference)}."
    return Section(
        key,
        title,
        f"{lines}: accuracy under the attacks of this benchmark, which is an upper bound on robustness. "
        "Filled areas: certified accuracy by the method named, proven for every change of that size, a lower "
        "bound; where its edge is dotted, each radius holds with the probability given, and for the majority "
        "of the model's answers to random copies of an image. The truth about a model lies in the hatched "
        f"band between the two, which are of the same images there.{hollow} In brackets: the number of "
        "images, which are the benchmark's random sample, none picked.",
        tuple(panels),
        tuple(remarks),
    )


def _dashed(reference: Mapping[str, object]) -> str:
    return "; dashed: its full curves" if reference else ""


def _panel(
    norm: Norm,
    every: tuple[str, ...],
    results: Results,
    proofs: Certificates,
    reference: Mapping[str, Mapping[Norm, Curve]],
) -> tuple[Panel, list[str]]:
    figure = new_figure(3.5, PANEL_HEIGHT)
    axes = figure.subplots()
    on_mnist = is_paper_data(results.dataset)
    styles, remarks = model_styles(every), list[str]()
    limit = LIMITS[norm] if on_mnist else _limit(norm, results, proofs)
    for model in every:
        colour, shape = styles[model]
        findings = results.smallest(model, norm) if model in results.models else ()
        found = distances(findings)
        curve = attack_curve(found, limit) if findings else None
        own = [record for record in proofs.get(model, ()) if record.norm == norm]
        if own:
            remarks += _draw_proof(axes, model, own, findings, limit, colour)
        if curve is not None:
            percent = [100 * value for value in curve.accuracies]
            axes.step(curve.sizes, percent, where="post", color=colour)
            marks = [size for size in _marks(norm) if size <= limit] if on_mnist else []
            share = [100 * float((found > size).double().mean()) for size in marks]
            axes.plot(marks, share, shape, color=colour, markersize=4)
            style = f"{shape}-" if on_mnist else "-"
            axes.plot([], [], style, color=colour, markersize=4, label=f"{model} ({len(found)})")
        if on_mnist and model in results.models and norm in PAPER.get(model, {}):
            figures = PAPER[model][norm].accuracies
            axes.plot(
                list(figures),
                [100 * value for value in figures.values()],
                shape,
                color=colour,
                markerfacecolor="none",
                markersize=6,
                markeredgewidth=0.8,
            )
        if dashed := reference.get(model, {}).get(norm):
            percent = [100 * value for value in dashed.accuracies]
            name = None if model in results.models else f"{model}, in the paper"
            axes.plot(dashed.sizes, percent, "--", color=colour, linewidth=0.9, label=name)
    unit = "pixels changed" if norm == "l0" else f"{NAMES[norm]} size of the change"
    axes.set(xlabel=unit, ylabel="accuracy, %", xlim=(0, limit), ylim=(0, 101), title=NAMES[norm])
    axes.grid(alpha=0.2, linewidth=0.5)
    names = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names), default=0) <= BESIDE else 1
    figure.set_figheight(PANEL_HEIGHT + LINE_HEIGHT * math.ceil(len(names) / columns))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    words = f"Accuracy in percent against {unit}, from 0 to {limit:g}, for {', '.join(results.models)}."
    return Panel(f"figure-2-{norm}", figure, words), remarks


def _draw_proof(
    axes: Axes,
    model: str,
    records: Sequence[CertificateRecord],
    findings: Sequence[Finding],
    limit: float,
    colour: str,
) -> list[str]:
    """Draws what is proven of a model, and the band up to what attacks found for the same images.

    Args:
        axes: Where to.
        model: Its name.
        records: Its certificates in the norm of the panel, at least one.
        findings: The smallest adversarials in this norm; may be empty.
        limit: Where the axis ends.
        colour: Of the model.

    Returns:
        What is to be known of it, a sentence each.
    """
    where = f"{model}, {NAMES[records[0].norm]}"
    radii = {record.index: record.radius for record in records}
    both = [finding for finding in findings if finding.record.index in radii]
    # of a model's majority there is no attack here that could be the other end of a band
    certain = all(record.confidence is None for record in records)
    chosen = [radii[finding.record.index] for finding in both] or list(radii.values())
    bound = certified_curve(torch.tensor(chosen, dtype=torch.float64), limit)
    methods = "; ".join(sorted({describe_method(record) for record in records}))
    _draw_area(axes, bound, colour, f"{model}, certified by {methods} ({len(chosen)})", certain=certain)
    if not findings:
        return []
    if not certain:
        return [
            f"{where}: no band is drawn, as what is certified is the majority of the model's answers to "
            "random copies of an image, and what was attacked is the model itself."
        ]
    if not both:
        return [
            f"{where}: none of the attacked images is certified, so no band is drawn; the area is of all "
            f"{len(chosen)} certified images."
        ]
    attacked = attack_curve(distances(both), limit)
    _draw_band(axes, bound, attacked, colour)
    if len(both) == len(findings):
        return []
    axes.step(
        attacked.sizes,
        [100 * value for value in attacked.accuracies],
        ":",
        where="post",
        color=colour,
        lw=0.8,
    )
    return [
        f"{where}: {len(both)} of the {len(findings)} attacked images are certified; the band is of these, "
        "up to the dotted line, which is their accuracy under attack."
    ]


def _limit(norm: Norm, results: Results, proofs: Certificates) -> float:
    """Where the axis of a norm ends: a little beyond the largest distance found and the largest radius."""
    found = [f.record.distance for model in results.models for f in results.smallest(model, norm)]
    radii = [record.radius for records in proofs.values() for record in records if record.norm == norm]
    known = [size for size in (*found, *radii) if 0 < size < torch.inf]
    return 1.05 * max(known, default=LIMITS[norm])


def _marks(norm: Norm) -> list[float]:
    for figures in PAPER.values():
        if norm in figures:
            return list(figures[norm].accuracies)
    return []


def _draw_area(axes: Axes, curve: Curve, colour: str, name: str, *, certain: bool) -> None:
    percent = [100 * value for value in curve.accuracies]
    shade = 0.3 if certain else 0.12
    axes.fill_between(curve.sizes, percent, step="pre", color=colour, alpha=shade, linewidth=0, label=name)
    axes.step(curve.sizes, percent, "-" if certain else ":", where="pre", color=colour, linewidth=0.8)


def _draw_band(axes: Axes, lower: Curve, upper: Curve, colour: str) -> None:
    """Hatches what lies between the two curves, which fall at different sizes."""
    sizes = torch.tensor(sorted({*lower.sizes, *upper.sizes}), dtype=torch.float64)
    low, high = (torch.tensor(curve.sizes, dtype=torch.float64) for curve in (lower, upper))
    ends = sizes[1:]
    below = torch.tensor(lower.accuracies)[torch.searchsorted(low, ends)]
    above = torch.tensor(upper.accuracies)[torch.searchsorted(high, sizes[:-1], right=True) - 1]
    below, above = torch.cat([below[:1], below]), torch.cat([above[:1], above])
    axes.fill_between(
        sizes.tolist(),
        (100 * below).tolist(),
        (100 * above).tolist(),
        step="pre",
        facecolor="none",
        edgecolor=colour,
        hatch="////",
        linewidth=0,
        alpha=0.45,
    )
