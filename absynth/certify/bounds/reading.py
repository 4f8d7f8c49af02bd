"""Reads a model as a network that can be bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from absynth.certify.bounds.builder import BATCH, Builder, Ending, UnboundedError, Variable
from absynth.certify.bounds.curves import Clip, Step
from absynth.certify.bounds.nodes import Input, Network, Node
from absynth.certify.bounds.tables import FUNCTIONS, METHODS, MODULES
from absynth.certify.bounds.tracing import OF_SHAPES, describe, operations, own_part, refused, trace
from absynth.errors import AbsynthError, first_line
from absynth.models.asked import answer
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped

AGREEMENT = 1e-3
"""By how much, relative to the largest, logits in float32 may differ from those of the network that was
read."""

TRIED = 3
"""Images that both are asked about."""


def check_operations(model: nn.Module) -> None:
    """Sees that a model can be followed and has operations that are known, without computing.

    Args:
        model: Any module.

    Raises:
        AbsynthError: If not; the sentence names the operation.
    """
    if (part := _inside(model)) is not None:
        check_operations(part)
        return
    graph, module = trace(model)
    for node in operations(graph):
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if _inside(layer) is not None:
                check_operations(layer)
            elif type(layer) not in MODULES:
                raise _unknown(node, module)
        elif node.target not in (METHODS if node.op == "call_method" else FUNCTIONS):
            raise _unknown(node, module)


def read_network(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> Network:
    """A model as a network that can be bounded.

    Args:
        model: Any module.
        shape: Of an image: channel, height, width.
        device: Where its weights are.

    Raises:
        AbsynthError: If it has an operation that cannot be bounded, or answers otherwise than what was read.
    """
    builder = Builder()
    image = builder.add(Input("the image", (), shape))
    with torch.no_grad():
        found = _run(builder, model, image)
    ending = found.function if isinstance(found, Ending) else None
    found = found.logits if isinstance(found, Ending) else found
    if not isinstance(found, Variable) or len(found.shape) != 1:
        raise refused(f"The answer of {type(model).__name__} is no tensor of logits (batch, class)")
    network = Network(_needed(builder.nodes, found.index), ending)
    _check(network, model, shape, device)
    return network


def _inside(module: nn.Module) -> nn.Module | None:
    """What a module of this package passes its images on to."""
    if isinstance(module, Clamped | Binarized):
        return module.model
    return own_part(module)


def _run(builder: Builder, model: nn.Module, x: Variable) -> Any:
    """What a model makes of a variable.

    Raises:
        AbsynthError: If that cannot be bounded.
    """
    if isinstance(model, Clamped):
        return _run(builder, model.model, builder.bend(x, Clip(model.low, model.high)))
    if isinstance(model, Binarized):
        return _run(builder, model.model, builder.bend(x, Step(0.5)))
    if (part := own_part(model)) is not None:
        return _run(builder, part, x)
    graph, module = trace(model)
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = x if not known else (node.args[0] if node.args else None)
            continue
        arguments = fx.node.map_arg(node.args, lambda one: known[one])
        options = fx.node.map_arg(node.kwargs, lambda one: known[one])
        if node.op == "output":
            return _logits(arguments[0], type(model).__name__)
        builder.place = describe(node, module)
        try:
            known[node] = _operate(builder, node, module, arguments, options)
        except AbsynthError:
            raise
        except UnboundedError as error:
            raise refused(f"The operation {builder.place} cannot be bounded as it is used: {error}") from None
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise refused(
                f"The operation {builder.place} cannot be read ({first_line(error).rstrip('.')})"
            ) from None
    raise refused(f"{type(model).__name__} answers nothing")


def _operate(  # noqa: PLR0911
    builder: Builder, node: fx.Node, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """What an operation makes of what it is given.

    Raises:
        AbsynthError: If it is not known.
        UnboundedError: If it is not known in this form.
    """
    target: Any = node.target
    if node.op == "get_attr":
        found: Any = module
        for name in target.split("."):
            found = getattr(found, name)
        return found
    if not _varies((arguments, options)):
        if node.op == "call_method":
            return getattr(arguments[0], target)(*arguments[1:], **options)
        return (
            module.get_submodule(target)(*arguments)
            if node.op == "call_module"
            else target(*arguments, **options)
        )
    if node.op == "call_module":
        layer = module.get_submodule(target)
        if _inside(layer) is not None:
            return _run(builder, layer, arguments[0])
        if type(layer) not in MODULES:
            raise _unknown(node, module)
        if not isinstance(arguments[0], Variable):
            raise UnboundedError("it is given something else than a tensor")
        return MODULES[type(layer)](builder, layer, *arguments, **options)
    subject = arguments[0] if arguments else None
    if isinstance(subject, Variable):
        example = torch.empty(BATCH, *subject.shape, device="meta")
        if target in OF_SHAPES:
            return getattr(example, target)(*arguments[1:])
        if target is getattr and arguments[1] in OF_SHAPES:
            return getattr(example, arguments[1])
    table: Mapping[Any, Any] = METHODS if node.op == "call_method" else FUNCTIONS
    if target not in table:
        raise _unknown(node, module)
    return table[target](builder, *arguments, **options)


def _varies(values: Any) -> bool:
    """Whether something among values depends on the image."""
    if isinstance(values, Variable | Ending):
        return True
    if isinstance(values, Mapping):
        return any(_varies(one) for one in values.values())
    return isinstance(values, tuple | list) and any(_varies(one) for one in values)


def _logits(answer: Any, name: str) -> Any:
    """The logits in what a model answers, where :func:`absynth.models.asked.read_logits` finds them."""
    if isinstance(answer, Mapping):
        return answer.get("logits", next(iter(answer.values())) if len(answer) == 1 else None)
    if isinstance(answer, tuple | list) and answer:
        return answer[0]
    return getattr(answer, "logits", answer) if not isinstance(answer, Ending) else answer


def _unknown(node: fx.Node, module: nn.Module) -> AbsynthError:
    """Says which operation is not known."""
    return refused(f"The operation {describe(node, module)} cannot be bounded")


def _needed(nodes: list[Node], last: int) -> tuple[Node, ...]:
    """The nodes that the last one depends on, numbered anew."""
    wanted = {last, 0}
    for index in range(last, -1, -1):
        if index in wanted:
            wanted.update(nodes[index].parents)
    numbers = {old: new for new, old in enumerate(sorted(wanted))}
    return tuple(
        replace(nodes[old], parents=tuple(numbers[parent] for parent in nodes[old].parents))
        for old in numbers
    )


def _check(network: Network, model: nn.Module, shape: tuple[int, ...], device: torch.device) -> None:
    """Sees that a network answers as the model does.

    Raises:
        AbsynthError: If it does not.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(TRIED, *shape, generator=generator).to(device)
    own = answer(model, images).double()
    read = network.forward(images.double())
    read = read if network.ending is None else network.ending(read)
    if own.shape != read.shape or not torch.allclose(
        own, read, rtol=0, atol=AGREEMENT * (1 + float(own.abs().max()))
    ):
        raise refused(f"What was read of {type(model).__name__} does not answer as the model does")
