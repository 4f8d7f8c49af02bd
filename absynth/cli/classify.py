"""``absynth classify``: says what pictures show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from absynth.cli.options import Model


def classify(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or npy files of any size.")],
    model: Model = "abs",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what each picture shows, how surely, and what else it might be; or abstain."""
    import torch

    from absynth.data.adapt import read_image
    from absynth.inference.decision import decide
    from absynth.report.sentences import describe_classification
    from absynth.zoo import load

    classifier = load(model)
    names = classifier.domain.class_names
    pictures = torch.stack([read_image(path, classifier.domain) for path in images])
    for path, decision in zip(images, decide(classifier, pictures), strict=True):
        if as_json:
            named = {"class": names[decision.label], "runner_up_class": names[decision.runner_up]}
            print(json.dumps({"image": str(path), **vars(decision), **named}))
        else:
            print(f"{path}: {describe_classification(decision, classifier.domain)}")
