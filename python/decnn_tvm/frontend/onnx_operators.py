# SPDX-License-Identifier: Apache-2.0
"""How each Relax operator is written in ONNX (opset 17): one short function an operator.

A function gets the graph, the call and the name of its result. The table `OPERATORS` is the list of
what can be written.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import helper
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_graph import OnnxGraph
from decnn_tvm.frontend.onnx_layers import LAYERS, Writer, float_type, ints, number, operands
from decnn_tvm.passes.weights import static_shape

_SIMPLE = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "divide": "Div",
    "equal": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "isnan": "IsNaN",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "log": "Log",
    "logical_and": "And",
    "logical_not": "Not",
    "logical_or": "Or",
    "matmul": "MatMul",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "negative": "Neg",
    "nn.relu": "Relu",
    "power": "Pow",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "subtract": "Sub",
    "tanh": "Tanh",
    "where": "Where",
}


def _simple(kind: str) -> Writer:
    return lambda graph, call, out: graph.node(kind, operands(graph, call), out)


def _clip(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    bounds = [graph.constant(number(b), float_type(call), "bound") for b in list(call.args)[1:]]
    graph.node("Clip", [graph.operand(call.args[0]), *bounds], out)


def _leaky_relu(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    graph.node("LeakyRelu", operands(graph, call), out, alpha=float(call.attrs.alpha))


def _prelu(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    data, slope = call.args
    rank = len(data.ty.shape)
    trailing = rank - 1 - int(call.attrs.axis) % rank
    shape = [*static_shape(slope), *([1] * trailing)]
    if slope in graph.weights:
        name = graph.weight(slope, shape)
    else:
        target = graph.constant(shape, "int64", "shape")
        name = graph.node("Reshape", [graph.operand(slope), target])
    graph.node("PRelu", [graph.operand(data), name], out)


def _silu(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    (x,) = operands(graph, call)
    graph.node("Mul", [x, graph.node("Sigmoid", [x])], out)


def _gelu(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    """Write ``x (1 + erf(x / sqrt 2)) / 2``."""
    (x,), dtype = operands(graph, call), float_type(call)
    scaled = graph.node("Mul", [x, graph.constant(math.sqrt(0.5), dtype)])
    factor = graph.node("Add", [graph.node("Erf", [scaled]), graph.constant(1.0, dtype)])
    half = graph.node("Mul", [x, graph.constant(0.5, dtype)])
    graph.node("Mul", [half, factor], out)


def _gelu_tanh(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    """Write ``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``."""
    (x,), dtype = operands(graph, call), float_type(call)
    cube = graph.node("Mul", [graph.node("Mul", [x, x]), x])
    inner = graph.node("Add", [x, graph.node("Mul", [cube, graph.constant(0.044715, dtype)])])
    scaled = graph.node("Mul", [inner, graph.constant(math.sqrt(2 / math.pi), dtype)])
    factor = graph.node("Add", [graph.node("Tanh", [scaled]), graph.constant(1.0, dtype)])
    half = graph.node("Mul", [x, graph.constant(0.5, dtype)])
    graph.node("Mul", [half, factor], out)


def _square(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    graph.node("Mul", operands(graph, call) * 2, out)


def _rsqrt(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    graph.node("Reciprocal", [graph.node("Sqrt", operands(graph, call))], out)


def _softmax(kind: str) -> Writer:
    return lambda graph, call, out: graph.node(
        kind, operands(graph, call), out, axis=int(call.attrs.axis)
    )


def _axes(call: relax.Call) -> list[int]:
    rank = len(call.args[0].ty.shape)
    axes = call.attrs.axis
    return list(range(rank)) if axes is None else [axis % rank for axis in ints(axes)]


def _reduce(kind: str) -> Writer:
    def write(graph: OnnxGraph, call: relax.Call, out: str) -> None:
        names, keep = operands(graph, call), int(call.attrs.keepdims)
        if kind == "ReduceSum":
            names.append(graph.constant(_axes(call), "int64", "axes"))
            graph.node(kind, names, out, keepdims=keep)
        else:
            graph.node(kind, names, out, axes=_axes(call), keepdims=keep)

    return write


def _variance(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    (x,) = operands(graph, call)
    mean = graph.node("ReduceMean", [x], axes=_axes(call), keepdims=1)
    rest = graph.node("Sub", [x, mean])
    square = graph.node("Mul", [rest, rest])
    graph.node("ReduceMean", [square], out, axes=_axes(call), keepdims=int(call.attrs.keepdims))


def _concat(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    parts = call.args[0]
    if isinstance(parts, relax.Tuple):
        names = [graph.operand(part) for part in parts.fields]
    else:
        names = graph.names[parts]
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
    graph.node("Concat", names, out, axis=axis)


def _split(graph: OnnxGraph, call: relax.Call, out: str) -> list[str]:
    axis = int(call.attrs.axis)
    sizes = [ints(field.shape)[axis] for field in call.ty.fields]
    names = [graph.fresh(f"{out}_part") for _ in sizes]
    lengths = graph.constant(sizes, "int64", "sizes")
    graph.node("Split", [*operands(graph, call), lengths], names, axis=axis)
    return names


def _strided_slice(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    data, *settings = call.args
    if any(not isinstance(setting, relax.Tuple) for setting in settings):
        raise ModelError(f"can't write {call!s:.80} to ONNX: bounds that are not constant")
    axes, starts, stops = ([number(v) for v in s.fields] for s in settings[:3])
    steps = [number(v) for v in settings[3].fields] if len(settings) > 3 else [1] * len(axes)
    bounds = [
        graph.constant(np.clip(v, -(2**62), 2**62), "int64", "bounds")
        for v in (starts, stops, axes, steps)
    ]
    graph.node("Slice", [graph.operand(data), *bounds], out)


def _take(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
    graph.node("Gather", operands(graph, call), out, axis=axis)


def _reshape(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    target = graph.constant(list(static_shape(call)), "int64", "shape")
    graph.node("Reshape", [graph.operand(call.args[0]), target], out)


def _broadcast_to(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    target = graph.constant(list(static_shape(call)), "int64", "shape")
    graph.node("Expand", [graph.operand(call.args[0]), target], out)


def _permute_dims(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    rank = len(call.args[0].ty.shape)
    axes = call.attrs.axes
    order = list(range(rank))[::-1] if axes is None else [axis % rank for axis in ints(axes)]
    graph.node("Transpose", operands(graph, call), out, perm=order)


def _astype(graph: OnnxGraph, call: relax.Call, out: str) -> None:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(str(call.attrs.dtype)))
    graph.node("Cast", operands(graph, call), out, to=dtype)


OPERATORS: dict[str, Writer] = {
    **LAYERS,
    **{f"relax.{name}": _simple(kind) for name, kind in _SIMPLE.items()},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims")},
    "relax.astype": _astype,
    "relax.broadcast_to": _broadcast_to,
    "relax.clip": _clip,
    "relax.concat": _concat,
    "relax.max": _reduce("ReduceMax"),
    "relax.mean": _reduce("ReduceMean"),
    "relax.min": _reduce("ReduceMin"),
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.nn.log_softmax": _softmax("LogSoftmax"),
    "relax.nn.prelu": _prelu,
    "relax.nn.silu": _silu,
    "relax.nn.softmax": _softmax("Softmax"),
    "relax.permute_dims": _permute_dims,
    "relax.prod": _reduce("ReduceProd"),
    "relax.rsqrt": _rsqrt,
    "relax.split": _split,
    "relax.square": _square,
    "relax.strided_slice": _strided_slice,
    "relax.sum": _reduce("ReduceSum"),
    "relax.take": _take,
    "relax.variance": _variance,
}
"""Relax operators that can be written, and how."""
