"""Measures how pictures of digits are read, kind by kind, and writes the table into docs/how-to/pictures.md.

    python docs/tools/pictures/table.py --each 55 --seed 0

Right is the digit, or for two digits and for blank paper to be told so; wrong is any other sure answer; the
rest is an abstention: the model says so, or the picture is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from kinds import BLANK, KINDS, PENS, SEVERAL, Sample, draw_all, plain

from absynth.data.digits import SeveralDigitsError, render_digit
from absynth.data.pictures import decode_picture
from absynth.errors import AbsynthError
from absynth.inference.decision import decide_renderings
from absynth.zoo import load

MODELS = ("abs", "certified-abs", "cnn")
PAGE = Path(__file__).parents[2] / "how-to" / "pictures.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
AT_ONCE = 50


def judge(samples: list[Sample], names: tuple[str, ...]) -> dict[str, list[str]]:
    """For each model ``right``, ``wrong`` or ``abstained`` on each picture."""
    read: list[torch.Tensor | str] = []
    for sample in samples:
        try:
            read.append(render_digit(decode_picture(sample.content, "It")).renderings)
        except SeveralDigitsError:
            read.append(SEVERAL)
        except AbsynthError:
            read.append(BLANK)
    digits = [one for one in read if not isinstance(one, str)]
    result = {}
    for name in names:
        model = load(name)
        decisions = iter(
            decision
            for start in range(0, len(digits), AT_ONCE)
            for decision in decide_renderings(model, digits[start : start + AT_ONCE])
        )
        verdicts = []
        for sample, found in zip(samples, read, strict=True):
            if isinstance(found, str):
                verdicts.append("right" if found == sample.answer else "abstained")
                continue
            decision = next(decisions)
            right = sample.answer == str(decision.label)
            verdicts.append("abstained" if decision.abstained else "right" if right else "wrong")
        result[name] = verdicts
        print(name, {word: verdicts.count(word) for word in ("right", "wrong", "abstained")}, flush=True)
    return result


def share(verdicts: list[str]) -> str:
    """Right, wrong and abstained in percent."""
    return " / ".join(f"{100 * np.mean([one == word for one in verdicts]):.1f}" for word in WORDS)


WORDS = ("right", "wrong", "abstained")


def write_table(rows: list[tuple[str, int, dict[str, list[str]]]], names: tuple[str, ...]) -> str:
    """A table in Markdown."""
    lines = [
        "| pictures | number | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|---:|" + "---|" * len(names),
    ]
    for text, count, verdicts in rows:
        lines.append(f"| {text} | {count} | " + " | ".join(share(verdicts[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the arguments, measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=55, help="pictures of every kind and pen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", type=Path, help="verdicts as JSON")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    arguments = parser.parse_args()
    names = tuple(arguments.models.split(","))
    torch.set_num_threads(1)
    uci = judge(plain(range(300, 600)), names)
    samples = draw_all(arguments.each, arguments.seed)
    verdicts = judge(samples, names)
    rows = [("UCI digits 300 to 599, as they are", 300, uci)]
    groups = [("all kinds", lambda one: True)]
    groups += [(f"all kinds, {pen}", lambda one, pen=pen: one.pen == pen) for pen in PENS]
    groups += [(how.text, lambda one, kind=kind: one.kind == kind) for kind, how in KINDS.items()]
    for text, chosen in groups:
        places = [place for place, one in enumerate(samples) if chosen(one)]
        rows.append((text, len(places), {name: [verdicts[name][one] for one in places] for name in names}))
    table = write_table(rows, names)
    print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps({"uci": uci, "kinds": verdicts}), encoding="utf-8")
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(before + BEGIN + "\n" + table + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
