"""Classifiers by prototypes as ONNX graphs; the only module that imports onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from absynth.errors import AbsynthError
from absynth.files import atomic_path, check_writable
from absynth.models.cnn import Binarized
from absynth.models.front import Clamped
from absynth.models.prototypes import PrototypeClassifier
from absynth.surroundings import standard

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 17
"""Of ONNX 1.12 (2022), which every runtime of today knows."""

LARGEST = 2**31 - 2**20
"""Bytes of a graph: a file of one piece cannot have more."""


def check_onnx(path: Path) -> None:
    """Sees that an ONNX file can be written there, before the work for it is done.

    Raises:
        AbsynthError: If onnx is missing, the name ends otherwise, or nothing can be written there.
    """
    if path.suffix.lower() != ".onnx":
        raise AbsynthError(f"'{path}' does not end in .onnx; name the file model.onnx, for example.")
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise AbsynthError("The export needs onnx; install it with: pip install 'absynth[onnx]'.") from None
    check_writable(path)


@torch.no_grad()
def export_onnx(model: nn.Module, path: str | Path) -> Path:
    """Writes a classifier by prototypes, alone or behind a threshold or a clamp, as an ONNX graph.

    Input ``images``, float32 in [0, 1] of shape (batch, channel, height, width) with any batch; output
    ``logits``, float32 (batch, class), as the model's own. The graph looks for each class's best prototype
    by a matrix product and computes the loss of that one anew, as :class:`PrototypeClassifier` does. It
    holds the prototypes themselves, 4 bytes a pixel: 251 MB for ``codebook-abs`` and 188 MB for
    ``nearest-neighbour``.

    Args:
        model: Codebook ABS, nearest neighbour or another classifier by prototypes, or one of these behind the
            threshold at ½ or a clamp.
        path: Ends in ``.onnx``; replaced at once, never half-written.

    Returns:
        The path.

    Raises:
        AbsynthError: If the model decides otherwise, it is too large, the name is wrong or onnx is missing.
    """
    path = Path(path)
    check_onnx(path)
    inner, fronts = model, []
    while isinstance(inner, Binarized | Clamped):
        fronts.append(inner)
        inner = inner.model
    if not isinstance(inner, PrototypeClassifier):
        raise AbsynthError(
            f"A {type(inner).__name__} cannot be exported; codebook-abs, nearest-neighbour, their binary "
            "forms and certified-abs can, and of networks without a search torch.onnx.export makes a graph."
        )
    with standard():
        graph = _graph(inner, fronts)
    with atomic_path(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return path


def _graph(model: PrototypeClassifier, fronts: Sequence[Binarized | Clamped]) -> ModelProto:
    import onnx
    from onnx import TensorProto, helper

    stored = model.prototypes()
    pixels = stored.images.shape[-1]
    if 4 * stored.images.numel() > LARGEST:
        raise AbsynthError(
            f"The model has {stored.offsets.numel()} prototypes of {pixels} pixels; an ONNX file takes "
            f"{LARGEST // (4 * pixels)} at most."
        )
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(name: str, values: Tensor) -> str:
        array = values.detach().cpu().contiguous().numpy()
        constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    flat = node("Flatten", ["images"], "pixels", axis=1)
    for number, front in enumerate(fronts):
        if isinstance(front, Clamped):
            low = constant(f"low_{number}", torch.tensor(front.low))
            high = constant(f"high_{number}", torch.tensor(front.high))
            flat = node("Clip", [flat, low, high], f"clamped_{number}")
        else:
            half = constant(f"half_{number}", torch.tensor(0.5))
            bright = node("Greater", [flat, half], f"bright_{number}")
            flat = node("Cast", [bright], f"binary_{number}", to=TensorProto.FLOAT)
    last = constant("last_axis", torch.tensor([1]))
    losses = []
    for label, (images, offsets) in enumerate(zip(stored.images, stored.offsets, strict=True)):
        present = ~offsets.isposinf()
        # A class without prototypes keeps one, whose infinite offset never wins.
        present[0] |= ~present.any()
        some = constant(f"prototypes_{label}", images[present])
        weights = constant(f"offsets_{label}", offsets[present])
        energies = constant(f"energies_{label}", images[present].square().sum(-1) + offsets[present])
        scores = node("Gemm", [flat, some, energies], f"scores_{label}", alpha=-2.0, transB=1)
        best = node("ArgMin", [scores], f"best_{label}", axis=1, keepdims=0)
        nearest = node("Gather", [some, best], f"nearest_{label}")
        difference = node("Sub", [flat, nearest], f"difference_{label}")
        square = node("Mul", [difference, difference], f"square_{label}")
        distance = node("ReduceSum", [square, last], f"distance_{label}", keepdims=1)
        weight = node("Gather", [weights, best], f"offset_{label}")
        column = node("Unsqueeze", [weight, last], f"offset_column_{label}")
        losses.append(node("Add", [distance, column], f"loss_{label}"))
    joined = node("Concat", losses, "losses", axis=1)
    node("Mul", [joined, constant("sharpness", torch.tensor(-model.alpha / pixels))], "logits")
    graph = helper.make_graph(
        nodes,
        type(model).__name__,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", "channel", "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(losses)])],
        constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model_gen_version(graph, opset_imports=opset, producer_name="absynth")
