"""The attacks of a benchmark: those of a suite by their names, and users' own by file and function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from absynth.attacks import Attack, Callable, find_attack
from absynth.attacks.conventions import makes_without_a_model
from absynth.errors import AbsynthError
from absynth.evaluate.own import OwnFile, find_function, read_file
from absynth.evaluate.tasks import Chosen, Preset
from absynth.norms import Norm
from absynth.surroundings import kept


@dataclass(frozen=True)
class OwnAttack:
    """What a user's file has for an attack.

    Attributes:
        asked: The file and the function.
        name: The same without the folder.
        value: An attack of this package, or what :class:`absynth.attacks.Callable` takes.
        source: A hash of the file and of what lies beside it.
    """

    asked: str
    name: str
    value: Any
    source: str

    def for_norm(self, norm: Norm, budget: int | None) -> Attack | None:
        """The attack in a norm; None if it is for another one.

        Args:
            norm: That the result is measured in.
            budget: Of an attack that is none of this package.

        Raises:
            AbsynthError: If it cannot be called as an attack.
        """
        if isinstance(self.value, Attack):
            return self.value if self.value.norm == norm else None
        return Callable(self.value, norm, self.name, budget)


def check_attack_name(name: str) -> bool:
    """Whether a name is that of a user's file, which is there; False for any other name.

    Raises:
        AbsynthError: If it names a file without a function, or one that is not there.
    """
    found = find_function(name, "attack")
    if found is None:
        return False
    read_file(found[0])
    return True


def load_attack(name: str) -> OwnAttack:
    """An attack from a user's file; a function that takes no arguments is called to make it.

    Args:
        name: Such as ``my_file.py:make_attack``.

    Raises:
        AbsynthError: If there is no such file or function, it raises, or it is no attack.
    """
    found = find_function(name, "attack")
    if found is None:
        raise AbsynthError(
            f"'{name}' is no file with a function; name your attack as my_file.py:make_attack."
        )
    own = OwnFile.read(name, *found)
    with kept(), own.running():
        value = own.load()
        if makes_without_a_model(value):
            value = value()
        if isinstance(value, type) and issubclass(value, Attack):
            raise AbsynthError(f"{name} is the class {value.__name__} of an attack; make it in a function.")
        if not isinstance(value, Attack):
            Callable(value)  # so that what is no attack is told of now
        digest = own.digest()
    return OwnAttack(name, f"{found[0].name}:{found[1]}", value, digest)


def choose_attacks(preset: Preset) -> dict[Norm, tuple[Chosen, ...]]:
    """The attacks of a benchmark, by norm; each file is loaded once.

    Args:
        preset: The benchmark.

    Raises:
        AbsynthError: If there is no such attack, one is for none of its norms, or two have one name.
    """
    own = {
        name: load_attack(name)
        for name in dict.fromkeys(name for names in preset.attacks.values() for name in names)
        if find_function(name, "attack") is not None
    }
    chosen: dict[Norm, tuple[Chosen, ...]] = {}
    for norm, names in preset.attacks.items():
        every = []
        for name in names:
            if name not in own:
                every.append(Chosen(name, find_attack(name, norm, preset.suite)))
            elif (attack := own[name].for_norm(norm, preset.budget)) is not None:
                every.append(Chosen(name, attack, own[name].name, own[name].source))
        chosen[norm] = tuple(every)
        shown = [one.name for one in every]
        if twice := [one for one in every if shown.count(one.name) > 1]:
            raise AbsynthError(
                f"Two attacks are called '{twice[0].name}' ({', '.join(one.asked for one in twice)}); rename "
                "one of the files."
            )
    used = {one.asked for every in chosen.values() for one in every}
    for name, one in own.items():
        if name not in used:
            raise AbsynthError(
                f"The attack {name} is for {one.value.norm}, in which the benchmark has no other; give it "
                f"as {one.value.norm}={name}."
            )
    return chosen


def named(preset: Preset, chosen: Mapping[Norm, Sequence[Chosen]]) -> Preset:
    """The benchmark with its attacks by the names that records have.

    Args:
        preset: The benchmark.
        chosen: Its attacks.
    """
    names = {one.asked: one.name for every in chosen.values() for one in every}
    return replace(
        preset,
        attacks={norm: tuple(one.name for one in every) for norm, every in chosen.items()},
        fewer_images={names[asked]: count for asked, count in preset.fewer_images.items() if asked in names},
    )


def attacks_for(names: Sequence[str], norm: Norm, budget: int | None) -> list[Attack]:
    """Users' own attacks in one norm.

    Args:
        names: Each as ``my_file.py:make_attack``.
        norm: That the results are measured in.
        budget: Of those that are none of this package.

    Raises:
        AbsynthError: If there is no such attack, or one is for another norm.
    """
    attacks: list[Attack] = []
    for own in map(load_attack, names):
        attack = own.for_norm(norm, budget)
        if attack is None:
            raise AbsynthError(
                f"The attack {own.asked} is for {own.value.norm}; give --norm {own.value.norm}."
            )
        attacks.append(attack)
    return attacks
