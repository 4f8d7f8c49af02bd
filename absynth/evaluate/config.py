"""Benchmarks that a user describes: a TOML file, and what is changed on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from absynth.attacks import SUITES, find_attack
from absynth.errors import AbsynthError
from absynth.evaluate.attacks import check_attack_name
from absynth.evaluate.data import choose_data
from absynth.evaluate.models import check_name
from absynth.evaluate.paper import is_paper_data
from absynth.evaluate.tasks import Preset, all_attacks, find_preset
from absynth.norms import Norm, parse_norm

DEFAULT = "quick"
"""The preset that is run when neither a preset nor a file is named."""

EVERY = "all"
"""What stands for all attacks of a suite."""


def choose_preset(name: str | None, file: Path | None) -> tuple[Preset, str]:
    """The benchmark that is asked for, and what to call the folder of its results.

    Args:
        name: Of a preset.
        file: A TOML file, in place of a preset.

    Raises:
        AbsynthError: If both are given, there is no such preset, or the file describes no benchmark.
    """
    if file is None:
        return find_preset(name or DEFAULT), name or DEFAULT
    if name is not None:
        raise AbsynthError(f"A preset '{name}' and the file {file} were given; give one of them.")
    return read_preset(file), file.stem


def adapt_preset(
    preset: Preset,
    *,
    models: Sequence[str] = (),
    dataset: str | None = None,
    images: int | None = None,
    thresholds: Sequence[str] = (),
    allow_random: bool = False,
    draws: int | None = None,
    attacks: Sequence[str] = (),
    budget: int | None = None,
    certify_images: int | None = None,
    courses: bool = False,
) -> Preset:
    """A preset with some of its parts replaced.

    Args:
        preset: What to start from.
        models: All models in place of the preset's.
        dataset: Name or path.
        images: How many are attacked.
        thresholds: Such as ``"l2=0.5,1,1.5"``; norms that are not named keep theirs.
        allow_random: Attack models that answer at random as well, by the mean of their logits.
        draws: Over how many answers.
        attacks: Users' own, besides the preset's, as ``my_file.py:make_attack`` for all norms of the preset,
            or ``l2=my_file.py:make_attack`` for one.
        budget: Of those.
        certify_images: How many are certified, by any method.
        courses: Keep how the adversarials come nearer, too.

    Raises:
        AbsynthError: If there is no such model or file, a model is for other data than those of the preset
            and none were given, a threshold is no number above 0, or a budget has no attack that it is for.
    """
    for name in models:
        check_name(name)
    if dataset is None and is_paper_data(preset.dataset):
        choose_data(models, None)
    parsed = dict(preset.thresholds)
    for text in thresholds:
        norm, _, sizes = text.partition("=")
        try:
            parsed[parse_norm(norm)] = tuple(sorted({float(size) for size in sizes.split(",")}))
        except ValueError:
            raise AbsynthError(
                f"'{text}' gives no thresholds; write a norm and its distances, for example l2=0.5,1,1.5."
            ) from None
    every = _with_own(preset.attacks, attacks)
    if budget is not None and not any(check_attack_name(name) for names in every.values() for name in names):
        raise AbsynthError(
            "A budget is for attacks of your own; name one as --attack my_file.py:make_attack, or leave the "
            "budget out."
        )
    return replace(
        preset,
        models=tuple(models) or preset.models,
        dataset=preset.dataset if dataset is None else dataset,
        images=preset.images if images is None else images,
        thresholds=parsed,
        allow_random=preset.allow_random or allow_random,
        draws=preset.draws if draws is None else draws,
        attacks=every,
        budget=preset.budget if budget is None else budget,
        certify_images=preset.certify_images if certify_images is None else certify_images,
        fewer_certified=preset.fewer_certified if certify_images is None else {},
        courses=preset.courses or courses,
    )


def _with_own(attacks: Mapping[Norm, tuple[str, ...]], own: Sequence[str]) -> dict[Norm, tuple[str, ...]]:
    """The attacks of a preset, and users' own."""
    every = dict(attacks)
    for text in own:
        first, equals, rest = text.partition("=")
        name = rest if equals and not first.endswith(".py") else text
        if not check_attack_name(name):
            raise AbsynthError(
                f"'{text}' is no file with a function; name your attack as my_file.py:make_attack, or for "
                "one norm as l2=my_file.py:make_attack."
            )
        for norm in [parse_norm(first)] if name is rest else list(every) or ["l2"]:
            every[norm] = tuple(dict.fromkeys((*every.get(norm, ()), name)))
    return every


def read_preset(path: Path) -> Preset:
    """The benchmark that a TOML file describes.

    Only ``models`` is needed. What is left out is as in :class:`Preset`, with the suite "quick", all its
    attacks in L2, Linf and L0, 100 images, and 1,000 for the clean accuracy::

        models = ["cnn", "saved/folder", "my_file.py:make_model"]
        suite = "strong"
        images = 50
        clean_images = 10000
        dataset = "mnist"
        seed = 0
        shard = 50
        allow_random = false
        draws = 20
        budget = 1000
        certify_images = 50
        courses = true

        [attacks]
        l2 = ["ddn", "boundary", "my_attack.py:attack"]
        linf = "all"

        [fewer_images]
        boundary = 10

        [thresholds]
        l2 = [0.5, 1.0, 1.5]

        [fewer_certified]
        crown = 5

    Paths in it start from the folder that the command is run in.

    Args:
        path: Of the file; reading it takes Python 3.11 or newer.

    Raises:
        AbsynthError: If the file cannot be read, or has an unknown or wrong entry; the sentence names it.
    """
    content = _read_toml(path)
    for key in content:
        if key not in _PARSERS:
            raise AbsynthError(f"{path} has the unknown key '{key}'; the keys are {', '.join(_PARSERS)}.")
    if "models" not in content:
        raise AbsynthError(f"{path} lacks the key 'models'; list at least one, for example [\"cnn\"].")
    values: dict[str, Any] = {"suite": DEFAULT, "images": 100, "clean_images": 1000}
    for key, value in content.items():
        with _names_key(path, key):
            values[key] = _PARSERS[key](value)
    with _names_key(path, "attacks"):
        values["attacks"] = _resolve_attacks(values["suite"], values.get("attacks"))
    try:
        return Preset(**values)
    except AbsynthError as error:
        raise AbsynthError(f"{path}: {error}") from None


@contextmanager
def _names_key(path: Path, key: str) -> Iterator[None]:
    try:
        yield
    except AbsynthError as error:
        raise AbsynthError(f"{path}, key '{key}': {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:
        raise AbsynthError("A TOML file takes Python 3.11 or newer; use it, or name a preset.") from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AbsynthError(
            f"{path} cannot be read ({error.strerror}); give the path of a TOML file."
        ) from None
    except ValueError as error:
        raise AbsynthError(f"{path} is not valid TOML ({error}); mend it.") from None


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise AbsynthError(f"{value!r} is no text; put it in quotes.")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise AbsynthError(f'{value!r} is no list of names; write for example ["first", "second"].')
    return tuple(value)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AbsynthError(f"{value!r} is no whole number.")
    return value


def _count(value: object) -> int:
    number = _integer(value)
    if number < 1:
        raise AbsynthError(f"It is {number}; it must be at least 1.")
    return number


def _number_of_images(value: object) -> int:
    number = _integer(value)
    if number < 0:
        raise AbsynthError(f"It is {number}; it must be at least 0.")
    return number


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise AbsynthError(f"{value!r} is neither true nor false.")
    return value


def _sizes(value: object) -> tuple[float, ...]:
    numbers: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers):
        raise AbsynthError(f"{value!r} is no list of numbers; write for example [0.5, 1.0].")
    return tuple(sorted({float(one) for one in numbers}))


def _table(value: object, example: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise AbsynthError(f"{value!r} is no table; write for example {example}.")
    return value


def _suite(value: object) -> str:
    name = _string(value).strip().lower()
    if name not in SUITES:
        raise AbsynthError(f"There is no suite '{name}'; choose one of {', '.join(SUITES)}.")
    return name


def _models(value: object) -> tuple[str, ...]:
    names = _strings(value)
    for name in names:
        check_name(name)
    return names


def _attacks(value: object) -> dict[Norm, tuple[str, ...] | None]:
    table = _table(value, 'attacks = {l2 = ["ddn"]}')
    return {
        parse_norm(norm): None if names == EVERY else tuple(_attack_name(name) for name in _strings(names))
        for norm, names in table.items()
    }


def _attack_name(name: str) -> str:
    return name if check_attack_name(name) else name.lower()


def _fewer_images(value: object) -> dict[str, int]:
    table = _table(value, "fewer_images = {boundary = 10}")
    return {_attack_name(name): _count(images) for name, images in table.items()}


def _fewer_certified(value: object) -> dict[str, int]:
    table = _table(value, "fewer_certified = {crown = 5}")
    return {name.lower(): _number_of_images(images) for name, images in table.items()}


def _thresholds(value: object) -> dict[Norm, tuple[float, ...]]:
    table = _table(value, "thresholds = {l2 = [0.5, 1.0]}")
    return {parse_norm(norm): _sizes(sizes) for norm, sizes in table.items()}


def _resolve_attacks(
    suite: str, chosen: Mapping[Norm, tuple[str, ...] | None] | None
) -> dict[Norm, tuple[str, ...]]:
    if chosen is None:
        return all_attacks(suite)
    resolved: dict[Norm, tuple[str, ...]] = {}
    for norm, names in chosen.items():
        if names is None:
            resolved |= all_attacks(suite, [norm])
        else:
            resolved[norm] = tuple(
                dict.fromkeys(
                    name if check_attack_name(name) else find_attack(name, norm, suite).name for name in names
                )
            )
    return resolved


_PARSERS: dict[str, Callable[[object], Any]] = {
    "models": _models,
    "suite": _suite,
    "attacks": _attacks,
    "images": _count,
    "clean_images": _count,
    "shard": _count,
    "dataset": _string,
    "seed": _integer,
    "fewer_images": _fewer_images,
    "thresholds": _thresholds,
    "allow_random": _flag,
    "draws": _count,
    "budget": _count,
    "certify_images": _number_of_images,
    "fewer_certified": _fewer_certified,
    "courses": _flag,
}
