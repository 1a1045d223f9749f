# SPDX-License-Identifier: Apache-2.0
"""How layers with attributes are written in ONNX: convolution, pooling, batch norm, pad, resize."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_graph import OnnxGraph
from decnn_tvm.passes.weights import static_shape

Writer = Callable[[OnnxGraph, relax.Call, str], object]

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
_RESIZE_MODES = {"nearest_neighbor": "nearest", "linear": "linear", "cubic": "cubic"}
_ROUNDINGS = {
    "": "round_prefer_floor",
    "round": "round_prefer_floor",
    "round_prefer_floor": "round_prefer_floor",
    "round_prefer_ceil": "round_prefer_ceil",
    "floor": "floor",
    "ceil": "ceil",
}


def ints(values: Iterable[Any]) -> list[int]:
    """Return attribute values as integers."""
    return [int(value) for value in values]


def number(value: Any) -> float:
    """Return the value of a scalar immediate."""
    return float(getattr(value, "value", value))


def operands(graph: OnnxGraph, call: relax.Call) -> list[str]:
    """Return the names of all arguments of a call."""
    return [graph.operand(arg) for arg in call.args]


def float_type(call: relax.Call) -> str:
    """Return the dtype of the first argument."""
    return str(call.args[0].ty.dtype)


def require(call: relax.Call, attr: str, *allowed: Any) -> None:
    """Raise `ModelError` unless an attribute has one of these values."""
    value = getattr(call.attrs, attr)
    if value not in allowed:
        raise ModelError(f"can't write {call.op.name} with {attr} {value!r} to ONNX: not {allowed}")


def _conv2d(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    require(call, "data_layout", "NCHW")
    require(call, "kernel_layout", "OIHW")
    graph.node("Conv", operands(graph, call), out, **_conv_attrs(call))


def _conv2d_transpose(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    require(call, "data_layout", "NCHW")
    require(call, "kernel_layout", "IOHW")
    attrs = _conv_attrs(call) | {"output_padding": ints(call.attrs.output_padding)}
    graph.node("ConvTranspose", operands(graph, call), out, **attrs)


def _conv_attrs(call: relax.Call) -> dict[str, Any]:
    return {
        "kernel_shape": list(static_shape(call.args[1]))[2:],
        "strides": ints(call.attrs.strides),
        "pads": ints(call.attrs.padding),
        "dilations": ints(call.attrs.dilation),
        "group": int(call.attrs.groups),
    }


def _batch_norm(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    rank = len(call.args[0].ty.shape)
    require(call, "axis", 1, 1 - rank)
    require(call, "training", False)
    graph.node("BatchNormalization", operands(graph, call), out, epsilon=float(call.attrs.epsilon))


def _pool(kind: str) -> Writer:
    def write(graph: OnnxGraph, call: relax.Call, out: str) -> None:
        require(call, "layout", "NCHW")
        attrs: dict[str, Any] = {
            "kernel_shape": ints(call.attrs.pool_size),
            "strides": ints(call.attrs.strides),
            "pads": ints(call.attrs.padding),
            "ceil_mode": int(call.attrs.ceil_mode),
        }
        if kind == "MaxPool":
            attrs["dilations"] = ints(call.attrs.dilation)
        elif ints(call.attrs.dilation) != [1, 1]:
            raise ModelError("can't write a dilated average pooling to ONNX before opset 19")
        else:
            attrs["count_include_pad"] = int(call.attrs.count_include_pad)
        graph.node(kind, operands(graph, call), out, **attrs)

    return write


def _adaptive_average(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    """Write ``R x C``: every output pixel is the mean of the input rows and columns it covers."""
    require(call, "layout", "NCHW")
    height, width = static_shape(call.args[0])[2:]
    rows, columns = static_shape(call)[2:]
    if rows == columns == 1:
        graph.node("GlobalAveragePool", operands(graph, call), out)
        return
    left = graph.constant(_averaging(height, rows), "float32", "adaptive_rows")
    right = graph.constant(_averaging(width, columns).T, "float32", "adaptive_columns")
    graph.node("MatMul", [left, graph.node("MatMul", [*operands(graph, call), right])], out)


def _averaging(size: int, count: int) -> np.ndarray[Any, Any]:
    """Return the (n, s) matrix of means over windows from floor(i s / n) to ceil((i + 1) s / n)."""
    matrix = np.zeros((count, size))
    for i in range(count):
        start, stop = i * size // count, -(-(i + 1) * size // count)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def _pad(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    require(call, "pad_mode", *_PAD_MODES)
    widths = ints(call.attrs.pad_width)
    pads = graph.constant(widths[0::2] + widths[1::2], "int64", "pads")
    fill = graph.constant(number(call.attrs.pad_value), float_type(call), "fill")
    mode = _PAD_MODES[str(call.attrs.pad_mode)]
    graph.node("Pad", [graph.operand(call.args[0]), pads, fill], out, mode=mode)


def _resize2d(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    require(call, "layout", "NCHW")
    require(call, "method", *_RESIZE_MODES)
    require(call, "rounding_method", *_ROUNDINGS)
    sizes = graph.constant(list(static_shape(call)), "int64", "sizes")
    attrs: dict[str, Any] = {
        "mode": _RESIZE_MODES[str(call.attrs.method)],
        "coordinate_transformation_mode": str(call.attrs.coordinate_transformation_mode),
        "nearest_mode": _ROUNDINGS[str(call.attrs.rounding_method)],
        "cubic_coeff_a": float(call.attrs.cubic_alpha),
        "exclude_outside": int(call.attrs.cubic_exclude),
    }
    graph.node("Resize", [graph.operand(call.args[0]), "", "", sizes], out, **attrs)


LAYERS: dict[str, Writer] = {
    "relax.image.resize2d": _resize2d,
    "relax.nn.adaptive_avg_pool2d": _adaptive_average,
    "relax.nn.avg_pool2d": _pool("AveragePool"),
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.nn.max_pool2d": _pool("MaxPool"),
    "relax.nn.pad": _pad,
}
"""Layers that can be written, and how."""
