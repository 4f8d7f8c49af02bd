"""``absynth classify``: says what pictures show."""

from __future__ import annotations

import glob
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absynth.cli.options import Model
from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from absynth.inference.decision import Decision
    from absynth.models.pretrained import PretrainedModel
    from absynth.shapes import Images

AT_ONCE = 32
"""How many pictures are read before they are classified together and printed."""


def classify(
    images: Annotated[
        list[Path],
        typer.Argument(help="Pictures of any size: PNG, JPEG, WebP, TIFF, BMP, GIF, npy; folders; patterns."),
    ],
    model: Model = "abs",
    number: Annotated[
        bool, typer.Option("--number", help="Read several digits from left to right as a number.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what each picture shows, how surely, and what else it might be; or abstain.

    A picture that cannot be read is named on standard error, and the exit status is then 1.
    """
    from absynth.zoo import load

    classifier = load(model)
    if number and not classifier.domain.digits:
        raise AbsynthError(f"{model} is not for digits; --number reads digits: leave it out.")
    paths, failed = _expand(images)
    for start in range(0, len(paths), AT_ONCE):
        failed |= _classify_some(classifier, paths[start : start + AT_ONCE], number=number, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _expand(paths: list[Path]) -> tuple[list[Path], bool]:
    """Every picture that is named: of a folder its pictures, of a pattern what it matches, both in order.

    Returns:
        The pictures, and whether some folder or pattern has none, which is told.
    """
    from absynth.data.folders import describe_others, list_pictures

    expanded: list[Path] = []
    failed = False
    for path in paths:
        if path.is_dir():
            pictures, others = list_pictures(path)
            if others:
                print(describe_others(path, others), file=sys.stderr)
            if not pictures:
                print(f"{path} holds no pictures; give a folder that does.", file=sys.stderr)
                failed = True
            expanded += pictures
        elif not path.exists() and glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  absolute patterns, too
            if not matches:
                print(f"Nothing matches {path}; give a pattern that pictures match.", file=sys.stderr)
                failed = True
            expanded += [Path(one) for one in matches]
        else:
            expanded.append(path)
    return expanded, failed


def _classify_some(classifier: PretrainedModel, paths: list[Path], *, number: bool, as_json: bool) -> bool:
    """Prints an answer for each picture in its order; returns whether one could not be read."""
    from absynth.data.adapt import read_renderings
    from absynth.data.digits import SeveralDigitsError
    from absynth.inference.decision import decide_renderings
    from absynth.report.sentences import describe_several

    read: list[list[Images] | int | AbsynthError] = []
    for path in paths:
        try:
            read.append(read_renderings(path, classifier.domain, number=number))
        except SeveralDigitsError as error:
            read.append(error.count)
        except AbsynthError as error:
            read.append(error)
    digits = [one for found in read if isinstance(found, list) for one in found]
    decided = iter(zip(digits, decide_renderings(classifier, digits), strict=True))
    for path, found in zip(paths, read, strict=True):
        if isinstance(found, AbsynthError):
            print(found, file=sys.stderr)
        elif isinstance(found, int):
            several: dict[str, Any] = {"image": str(path), "abstained": True, "digits": found}
            print(json.dumps(several) if as_json else f"{path}: {describe_several(found)}")
        else:
            answers = [next(decided) for _ in found]
            if number:
                print(_tell_number(classifier, path, answers, as_json=as_json))
            else:
                print(_tell(classifier, path, answers[0][1], as_json=as_json))
    return any(isinstance(found, AbsynthError) for found in read)


def _tell(classifier: PretrainedModel, path: Path, decision: Decision, *, as_json: bool) -> str:
    from absynth.report.sentences import describe_classification

    if as_json:
        return json.dumps({"image": str(path), **_as_dict(classifier, decision)})
    return f"{path}: {describe_classification(decision, classifier.domain)}"


def _as_dict(classifier: PretrainedModel, decision: Decision) -> dict[str, Any]:
    names = classifier.domain.class_names
    return {
        **vars(decision),
        "class": names[decision.label],
        "runner_up_class": names[decision.runner_up],
    }


def _tell_number(
    classifier: PretrainedModel, path: Path, answers: list[tuple[Images, Decision]], *, as_json: bool
) -> str:
    import torch

    from absynth.certify import certify
    from absynth.inference.abs import ABS
    from absynth.models.front import unwrap
    from absynth.report.sentences import describe_number

    decisions = [decision for _, decision in answers]
    radii = None
    if not isinstance(unwrap(classifier), ABS):  # for which there is an estimate, but no proof
        # Of the digit as it was written: its first rendering.
        images = torch.stack([images[0] for images, _ in answers])
        labels = torch.tensor([decision.label for decision in decisions])
        with suppress(AbsynthError):  # a model that has no certificates
            radii = certify(classifier, images, labels, norm="l2").radius.tolist()
    if not as_json:
        return f"{path}: {describe_number(decisions, radii, classifier.domain)}"
    digits = [_as_dict(classifier, decision) for decision in decisions]
    for place, digit in enumerate(digits):
        digit["l2_radius"] = None if radii is None else radii[place]
    whole = "".join("?" if one.abstained else classifier.domain.class_names[one.label] for one in decisions)
    return json.dumps({"image": str(path), "number": whole, "digits": digits})
