# SPDX-License-Identifier: Apache-2.0
"""Import a prepared ONNX model with TVM's importer, some operators translated more plainly.

TVM 0.27 turns ``Clip``, ``Max``, ``Min``, ``Sum`` and ``Pad`` into loop nests or stacked tensors,
in which no pass recognises an activation or a residual sum; here they become plain Relax operators.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_forms import opset_of
from decnn_tvm.frontend.onnx_windows import resolve_padding

logger = logging.getLogger(__name__)
# Resize computes coordinates by the scale that it is given, not by the sizes, in these modes.
_SCALED = {"half_pixel", "pytorch_half_pixel", "asymmetric", "tf_half_pixel_for_nn"}
# What float32 leaves of a ratio of sizes.
_SCALE_TOLERANCE = 1e-6
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def import_onnx(model: onnx.ModelProto) -> tvm.IRModule:
    """Return the Relax module of a model that `onnx_reader.prepared` returned."""
    opset = opset_of(model)
    noise = io.StringIO()  # TVM prints a failed operator's arguments
    try:
        with contextlib.redirect_stdout(noise), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importer = _Importer(None, "float32", keep_params_in_input=True, sanitize=False)
            return importer.from_onnx(model.graph, opset)
    except ModelError:
        raise
    except Exception as error:  # TVM raises whatever its converters trip over
        logger.debug("TVM's importer said: %s", noise.getvalue())
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"can't import {model.graph.name!r} (opset {opset}): {what[0]}; replace that operator, "
            "or simplify the model (onnxsim, constant folding)"
        ) from error


class _Importer(ONNXGraphImporter):  # type: ignore[misc]
    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        try:
            super()._check_for_unsupported_ops(graph)
        except tvm.error.OpNotImplemented as error:
            names = ", ".join(sorted(str(error).rsplit(": ", 1)[-1].split(", ")))
            raise ModelError(f"unsupported ONNX operators: {names}; replace them") from error

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        resolve_padding(op_name, inputs, attrs)
        translate = _TRANSLATIONS.get(op_name)
        if translate is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        operands = _Operands(list(inputs), attrs, self._params)
        result = translate(self.bb, operands)
        if result is None:
            return super()._convert_operator(op_name, inputs, attrs, opset)
        return self.bb.normalize(result)


class _Operands:
    """The inputs and attributes of one node."""

    def __init__(
        self, inputs: Sequence[Any], attrs: dict[str, Any], params: dict[str, Any]
    ) -> None:
        self.inputs = inputs
        self.attrs = attrs
        self._values = {var: value for var, value in params.values()}

    @property
    def data(self) -> relax.Expr:
        """The first input."""
        return self.inputs[0]

    def constant(self, position: int) -> np.ndarray[Any, Any] | None:
        """Return the value of an optional input; None where absent, `ModelError` where unknown."""
        expr = self.inputs[position] if position < len(self.inputs) else None
        if expr is None:
            return None
        if isinstance(expr, tvm.ir.GenericConst):
            return np.asarray(expr.value.numpy())
        if expr not in self._values:
            raise ModelError("an operand that must be constant depends on the input of the network")
        return np.asarray(self._values[expr].numpy())


def _batch_norm(_bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
    """Refuse training; before opset 14 outputs beside the first are what tells it."""
    if node.attrs.get("training_mode", 0) or node.attrs["tvm_custom"]["num_outputs"] > 1:
        raise _in_training(node, "BatchNormalization")
    return None


def _dropout(_bb: relax.BlockBuilder, node: _Operands) -> relax.Expr:
    mode = node.constant(2)
    if mode is not None and bool(mode):
        raise _in_training(node, "Dropout")
    return node.data


def _in_training(node: _Operands, operator: str) -> ModelError:
    return ModelError(
        f"{operator} {node.attrs['tvm_custom']['name']!r} is in training mode; expected a network "
        "for inference: export the model in eval mode"
    )


def _clip(_bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
    low, high = (_bound(node, i, key) for i, key in ((1, "min"), (2, "max")))
    x = node.data
    if "float" not in str(x.ty.dtype):
        return None
    if low == 0.0 and high == np.inf:
        return relax.op.nn.relu(x)
    if np.isfinite(low) and np.isfinite(high):
        return relax.op.clip(x, low, high)
    x = x if low == -np.inf else relax.op.maximum(x, relax.const(low, "float32"))
    return x if high == np.inf else relax.op.minimum(x, relax.const(high, "float32"))


def _resize(_bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
    """Leave the node to TVM, which knows the sizes of images alone, unless it asks for more."""
    policy = _text(node, "keep_aspect_ratio_policy", "stretch")
    if node.attrs.get("antialias", 0) or policy != "stretch" or "axes" in node.attrs:
        raise ModelError(
            "Resize with antialias, axes or a keep_aspect_ratio_policy: expected none of them; "
            "export the model without"
        )
    shape = [int(extent) for extent in node.data.ty.shape]
    scales, sizes = node.constant(2), node.constant(3)
    if scales is not None:
        _check_scales(node, shape, scales)
    kept = shape if sizes is None else [int(size) for size in sizes]
    kept = kept if scales is None else [int(a * b) for a, b in zip(shape, scales, strict=True)]
    if kept[:2] != shape[:2]:
        raise ModelError(f"Resize of {shape} to {kept}: only heights and widths can change")
    return None


def _check_scales(node: _Operands, shape: list[int], scales: np.ndarray[Any, Any]) -> None:
    """Refuse scales that are not the ratio of the sizes, by which TVM would resize."""
    if _text(node, "coordinate_transformation_mode", "half_pixel") not in _SCALED:
        return
    for size, scale in zip(shape, scales.astype("float32"), strict=True):
        whole = int(scale * np.float32(size))
        if abs(float(scale) * size - whole) > _SCALE_TOLERANCE * whole:
            raise ModelError(
                f"Resize of {shape} by {scales.tolist()}: {size} times {scale:g} is no whole "
                "number, which TVM can't resize by; give Resize sizes instead of scales, or the "
                "network images whose sizes fit"
            )


def _text(node: _Operands, key: str, default: str) -> str:
    value = node.attrs.get(key, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _bound(node: _Operands, position: int, key: str) -> float:
    infinite = -np.inf if key == "min" else np.inf
    value = node.constant(position)
    bound = float(node.attrs.get(key, infinite)) if value is None else float(value.reshape(()))
    # A NaN bound bounds nothing, and so does the largest float, opset 6's default.
    unbounded = np.isnan(bound) or abs(bound) >= np.finfo("float32").max
    return infinite if unbounded else bound


def _pairwise(
    combine: Callable[[relax.Expr, relax.Expr], relax.Expr],
) -> Callable[[relax.BlockBuilder, _Operands], relax.Expr | None]:
    def translate(bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
        if any(isinstance(x.ty, relax.ShapeType) for x in node.inputs):
            return None
        return functools.reduce(lambda x, y: bb.normalize(combine(x, y)), node.inputs)

    return translate


def _pad(_bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
    rank = len(node.data.ty.shape)
    mode = _PAD_MODES.get(bytes(node.attrs.get("mode", b"constant")).decode())
    pads = node.constant(1) if len(node.inputs) > 1 else np.asarray(node.attrs["pads"])
    axes, fill = node.constant(3), node.constant(2)
    if pads is None or mode is None:
        return None
    fill_value = float(node.attrs.get("value", 0.0) if fill is None else fill.reshape(()))
    chosen = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    widths = [0] * (2 * rank)
    for index, axis in enumerate(chosen):
        widths[2 * axis : 2 * axis + 2] = int(pads[index]), int(pads[index + len(chosen)])
    if min(widths) < 0:
        raise ModelError(f"Pad with negative widths {pads.tolist()}: use Slice to crop")
    if not any(widths):
        return node.data
    return relax.op.nn.pad(node.data, widths, mode, fill_value)


def _expand(bb: relax.BlockBuilder, node: _Operands) -> relax.Expr | None:
    own, asked = list(node.data.ty.shape), node.constant(1)
    if asked is None:
        return None
    rank = max(len(own), asked.size)
    padded = [[1] * (rank - len(extents)) + extents for extents in (own, asked.tolist())]
    shape = [b if int(a) == 1 else a for a, b in zip(*padded, strict=True)]
    return relax.op.broadcast_to(node.data, shape)


_TRANSLATIONS: dict[str, Callable[[relax.BlockBuilder, _Operands], relax.Expr | None]] = {
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Dropout": _dropout,
    "Expand": _expand,
    "Identity": lambda _, node: node.data,
    "Max": _pairwise(relax.op.maximum),
    "Min": _pairwise(relax.op.minimum),
    "Pad": _pad,
    "Resize": _resize,
    "Sum": _pairwise(relax.op.add),
}
