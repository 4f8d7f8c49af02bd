"""The options that commands share: each by itself, and those of an engine as a group."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

Model = Annotated[
    str, typer.Option(help="A model's name, a folder written by save_pretrained, or user/name on the Hub.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Data = Annotated[
    str | None,
    typer.Option(help="A named data set, or a path to one; by default mnist, if the model is for it."),
]
Strict = Annotated[bool, typer.Option("--strict", help="A picture that cannot be read is an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray for a cluster of machines.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; by default this machine's, or one started here.")
]
Cpus = Annotated[int | None, typer.Option(min=1, help="Ray: CPUs, and threads, of a task; by default 1.")]
Gpus = Annotated[
    float | None, typer.Option(min=0, help="Ray: GPUs of a task, where the model then is; by default 0.")
]
AllowRandom = Annotated[
    bool,
    typer.Option("--allow-random", help="Attack a model that answers at random by the mean of its logits."),
]
Draws = Annotated[
    int | None, typer.Option(min=1, help="With --allow-random: answers in a mean; by default 20.")
]
Budget = Annotated[
    int | None,
    typer.Option(
        min=1, help="Forward and backward passes, together, that an image may take of your own attack."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Local: where the model is, as cuda for a GPU; by default cpu.")
]


@dataclass(frozen=True)
class ClusterOptions:
    """Whether a command runs in this process or on a cluster.

    Attributes:
        engine: ``--engine``; this and the others are what :func:`absynth.engine.open_engine` takes.
        address: ``--address``.
        cpus_per_task: ``--cpus-per-task``.
        gpus_per_task: ``--gpus-per-task``.
    """

    engine: EngineName = "local"
    address: Address = None
    cpus_per_task: Cpus = None
    gpus_per_task: Gpus = None


@dataclass(frozen=True)
class EngineOptions(ClusterOptions):
    """The same, and the device of this process.

    Attributes:
        device: ``--device``.
    """

    device: Device = None


def spell_out(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command each field of its groups of options as an option of its own.

    A group is a parameter whose type is a dataclass. Typer knows no groups and sees the fields in its place;
    the command itself gets the group.

    Args:
        command: A function as typer takes it, but for the groups.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and is_dataclass(group)):
            parameters.append(parameter)
            continue
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        parameters += [
            parameter.replace(name=field.name, default=field.default, annotation=hints[field.name])
            for field in fields(group)
        ]

    @wraps(command)
    def spelled_out(**options: Any) -> None:
        for name, group in groups.items():
            grouped = group(**{field.name: options.pop(field.name) for field in fields(group)})
            options[name] = grouped
        command(**options)

    spelled_out.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled_out.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spelled_out
