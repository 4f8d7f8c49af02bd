"""What a model computes, as PyTorch's symbolic tracing sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from absynth.errors import AbsynthError, first_line
from absynth.models.asked import Asked, Function
from absynth.models.front import Fronted
from absynth.models.frozen import frozen
from absynth.models.pretrained import PretrainedModel

ALTERNATIVE = "the method 'smoothing' only asks a model, and certifies a smoothed one"
"""What is possible where bounds are not."""

OF_SHAPES = ("size", "dim", "numel", "shape", "ndim", "dtype", "device")
"""Methods and attributes of a tensor that say nothing of its values."""


def refused(what: str) -> AbsynthError:
    """Says what of a model cannot be bounded, and what is possible.

    Args:
        what: A sentence without its end.
    """
    return AbsynthError(f"{what}, so no bounds can certify it; {ALTERNATIVE}.")


def own_part(module: nn.Module) -> nn.Module | None:
    """The layers of a model of this package that looks at its images before it computes; None for others."""
    if isinstance(module, Asked):
        return module.model
    if isinstance(module, PretrainedModel) and isinstance(
        layers := getattr(module, "layers", None), nn.Module
    ):
        return layers
    return None


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own modules, and at models of this package, which are looked into by themselves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation."""
        if own_part(m) is not None or isinstance(m, Fronted):
            return True
        return super().is_leaf_module(m, module_qualified_name)


class _Called(nn.Module):
    """A function without a check of what it is called with."""

    def __init__(self, model: Function) -> None:
        super().__init__()
        self.function, self.networks = model.function, model.networks

    def forward(self, images: Any) -> Any:
        """What the function answers."""
        return self.function(images)


def trace(model: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """The operations of a model in evaluation mode, and the module that their names are in.

    Args:
        model: Not one that :func:`own_part` stands for.

    Raises:
        AbsynthError: If its course depends on the values of the images, or it does what cannot be followed.
    """
    # a module of PyTorch's is an operation itself
    single = type(model).__module__.startswith("torch.nn.modules") and not isinstance(model, nn.Sequential)
    inside = nn.Sequential(model) if single else model
    if isinstance(model, Function):
        inside = _Called(model).train(model.training)
    tracer = _Tracer()
    try:
        with frozen(inside):
            return tracer.trace(inside), inside
    except AbsynthError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code may raise when it meets a proxy
        kind, line = type(error).__name__, first_line(error).rstrip(".")
        raise refused(
            f"The operations of {type(model).__name__} cannot be followed without images ({kind}: {line})"
        ) from None


def operations(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations on tensors that depend on the images."""
    tensors: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            tensors[node] = not tensors
            continue
        given = [tensors[one] for one in node.all_input_nodes if one in tensors]
        if not given or node.op == "output":
            continue
        of_shape = node.target in OF_SHAPES or (node.target is getattr and node.args[1] in OF_SHAPES)
        tensors[node] = any(given) and not of_shape
        if tensors[node]:
            yield node


def describe(node: fx.Node, module: nn.Module) -> str:
    """Which operation it is, and where, for a message."""
    if node.op == "call_module":
        return f"'{type(module.get_submodule(str(node.target))).__name__}' ({node.target})"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack = node.meta.get("nn_module_stack") or {}
    where = next(reversed(stack), "") if stack else ""
    return f"'{name}' ({where})" if where else f"'{name}'"
