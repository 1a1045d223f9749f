# SPDX-License-Identifier: Apache-2.0
"""How each Relax operator is written in PyTorch: one short function an operator.

A function gets the graph under construction and the call, and adds nodes. The table `OPERATORS` is
the list of what can be trained.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_layers import ints, number
from decnn_tvm.passes.weights import static_shape
from decnn_tvm.training.torch_graph import TorchGraph
from decnn_tvm.training.torch_layers import (
    BatchNorm,
    add_bias,
    average_pool,
    convolve,
    max_pool,
    reshape_samples,
)

Translate = Callable[[TorchGraph, relax.Call], fx.Node]


def _refused(call: relax.Call, why: str) -> ModelError:
    return ModelError(f"can't train {call.op.name}: {why}")


def _plain(function: Callable[..., Any], **options: Any) -> Translate:
    """Return the translation of an operator whose arguments are tensors alone."""
    return lambda graph, call: graph.call(
        function, *(graph.operand(arg) for arg in call.args), **options
    )


def _axis(graph: TorchGraph, call: relax.Call, value: Any) -> int:
    """Return an axis counted from the front; that of the samples is refused."""
    source = call.args[0]
    rank = len((source.fields[0] if isinstance(source, relax.Tuple) else source).ty.shape)
    axis = int(value) % rank
    if axis == 0 and any(graph.is_data(arg) for arg in _flat(call)):
        raise _refused(call, "it works along axis 0, the batch, and so would mix samples")
    return axis


def _flat(call: relax.Call) -> list[relax.Expr]:
    parts = (arg.fields if isinstance(arg, relax.Tuple) else [arg] for arg in call.args)
    return [arg for part in parts for arg in part]


def _conv2d(graph: TorchGraph, call: relax.Call) -> fx.Node:
    attrs = call.attrs
    if (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
        raise _refused(call, f"its layouts are {attrs.data_layout} and {attrs.kernel_layout}")
    return graph.call(
        convolve,
        *(graph.operand(arg) for arg in call.args),
        ints(attrs.strides),
        ints(attrs.padding),
        ints(attrs.dilation),
        int(attrs.groups),
    )


def _batch_norm(graph: TorchGraph, call: relax.Call) -> fx.Node:
    attrs = call.attrs
    axis = _axis(graph, call, attrs.axis)
    data, scale, shift, mean, variance = (graph.operand(arg) for arg in call.args)
    module = BatchNorm(axis, float(attrs.epsilon), graph.momentum)
    arguments = [scale if attrs.scale else None, shift if attrs.center else None]
    return graph.module("norm", module, data, *arguments, mean, variance)


def _pool(kind: str) -> Translate:
    def translate(graph: TorchGraph, call: relax.Call) -> fx.Node:
        attrs, data = call.attrs, graph.operand(call.args[0])
        if attrs.layout != "NCHW":
            raise _refused(call, f"its layout is {attrs.layout}")
        size, stride, padding = (ints(v) for v in (attrs.pool_size, attrs.strides, attrs.padding))
        dilation, ceil = ints(attrs.dilation), bool(attrs.ceil_mode)
        if kind == "max":
            return graph.call(max_pool, data, size, stride, padding, dilation, ceil)
        if dilation != [1, 1] or padding[:2] != padding[2:]:
            raise _refused(call, "it is dilated, or padded by more on one side")
        return graph.call(
            average_pool, data, size, stride, padding, ceil, bool(attrs.count_include_pad)
        )

    return translate


def _adaptive_average(graph: TorchGraph, call: relax.Call) -> fx.Node:
    size = list(static_shape(call)[2:])
    return graph.call(functional.adaptive_avg_pool2d, graph.operand(call.args[0]), size)


def _pad(graph: TorchGraph, call: relax.Call) -> fx.Node:
    widths = ints(call.attrs.pad_width)
    if str(call.attrs.pad_mode) not in ("constant", "reflect", "replicate"):
        raise _refused(call, f"its mode is {call.attrs.pad_mode}")
    pairs = [tuple(widths[i : i + 2]) for i in range(0, len(widths), 2)]
    while pairs and pairs[0] == (0, 0):
        del pairs[0]
    flat = [width for pair in reversed(pairs) for width in pair]
    data, mode = graph.operand(call.args[0]), str(call.attrs.pad_mode)
    value = number(call.attrs.pad_value) if mode == "constant" else None
    return graph.call(functional.pad, data, flat, mode, value)


def _add(graph: TorchGraph, call: relax.Call) -> fx.Node:
    first, second = call.args
    if graph.is_data(first) == graph.is_data(second):
        return _plain(torch.add)(graph, call)
    data, bias = (first, second) if graph.is_data(first) else (second, first)
    if not isinstance(bias, relax.Var):
        return _plain(torch.add)(graph, call)
    return graph.call(add_bias, graph.operand(data), graph.operand(bias))


def _matmul(graph: TorchGraph, call: relax.Call) -> fx.Node:
    return graph.call(torch.matmul, *(graph.operand(arg) for arg in call.args))


def _reshape(graph: TorchGraph, call: relax.Call) -> fx.Node:
    source, shape = call.args[0], list(static_shape(call))
    data = graph.operand(source)
    if not graph.is_data(source):
        return graph.call(torch.reshape, data, shape)
    if not shape or shape[0] != static_shape(source)[0]:
        raise _refused(call, f"{list(static_shape(source))} to {shape} changes the batch, axis 0")
    return graph.call(reshape_samples, data, shape[1:])


def _permute(graph: TorchGraph, call: relax.Call) -> fx.Node:
    rank, axes = len(static_shape(call)), call.attrs.axes
    order = list(range(rank))[::-1] if axes is None else [a % rank for a in ints(axes)]
    if graph.is_data(call.args[0]) and order[0] != 0:
        raise _refused(call, f"the order {order} moves axis 0, the batch")
    return graph.call(torch.permute, graph.operand(call.args[0]), order)


def _reduce(function: Callable[..., Any]) -> Translate:
    def translate(graph: TorchGraph, call: relax.Call) -> fx.Node:
        rank = len(static_shape(call.args[0]))
        axes = range(rank) if call.attrs.axis is None else ints(call.attrs.axis)
        dims = [_axis(graph, call, axis) for axis in axes]
        return graph.call(
            function, graph.operand(call.args[0]), dims, keepdim=bool(call.attrs.keepdims)
        )

    return translate


def _softmax(function: Callable[..., Any]) -> Translate:
    return lambda graph, call: graph.call(
        function, graph.operand(call.args[0]), _axis(graph, call, call.attrs.axis)
    )


def _clip(graph: TorchGraph, call: relax.Call) -> fx.Node:
    low, high = (number(bound) for bound in list(call.args)[1:])
    return graph.call(torch.clamp, graph.operand(call.args[0]), low, high)


def _leaky_relu(graph: TorchGraph, call: relax.Call) -> fx.Node:
    slope = float(call.attrs.alpha)
    return graph.call(functional.leaky_relu, graph.operand(call.args[0]), slope)


def _concat(graph: TorchGraph, call: relax.Call) -> fx.Node:
    parts = call.args[0]
    if not isinstance(parts, relax.Tuple):
        raise _refused(call, "its parts are computed as one tuple")
    axis = _axis(graph, call, call.attrs.axis or 0)
    return graph.call(torch.cat, [graph.operand(part) for part in parts.fields], axis)


def _split(graph: TorchGraph, call: relax.Call) -> fx.Node:
    axis = _axis(graph, call, call.attrs.axis)
    sizes = [int(field.shape[axis]) for field in call.ty.fields]
    return graph.call(torch.split, graph.operand(call.args[0]), sizes, axis)


def _strided_slice(graph: TorchGraph, call: relax.Call) -> fx.Node:
    data, *bounds = call.args
    if any(not isinstance(bound, relax.Tuple) for bound in bounds):
        raise _refused(call, "its bounds are computed")
    axes, starts, stops, *steps = ([int(number(v)) for v in b.fields] for b in bounds)
    index: list[slice] = [slice(None)] * len(static_shape(data))
    for i, axis in enumerate(axes):
        step = steps[0][i] if steps else 1
        if step < 1:
            raise _refused(call, f"its step is {step}")
        index[_axis(graph, call, axis)] = slice(starts[i], stops[i], step)
    return graph.call(operator.getitem, graph.operand(data), tuple(index))


def _take(graph: TorchGraph, call: relax.Call) -> fx.Node:
    axis = _axis(graph, call, call.attrs.axis or 0)
    if len(static_shape(call.args[1])) != 1:
        raise _refused(call, "its indices are no list")
    data, index = (graph.operand(arg) for arg in call.args)
    return graph.call(torch.index_select, data, axis, index)


def _dtype(graph: TorchGraph, call: relax.Call) -> fx.Node:
    kind = getattr(torch, str(call.attrs.dtype))
    return graph.call(torch.Tensor.to, graph.operand(call.args[0]), kind)


_PLAIN: dict[str, Callable[..., Any]] = {
    "abs": torch.abs,
    "divide": torch.div,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "multiply": torch.mul,
    "negative": torch.neg,
    "nn.gelu": functional.gelu,
    "nn.relu": functional.relu,
    "nn.relu6": functional.relu6,
    "nn.silu": functional.silu,
    "power": torch.pow,
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "subtract": torch.sub,
    "tanh": torch.tanh,
}

OPERATORS: dict[str, Translate] = {
    **{f"relax.{name}": _plain(function) for name, function in _PLAIN.items()},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims")},
    "relax.add": _add,
    "relax.astype": _dtype,
    "relax.clip": _clip,
    "relax.concat": _concat,
    "relax.matmul": _matmul,
    "relax.max": _reduce(torch.amax),
    "relax.mean": _reduce(torch.mean),
    "relax.min": _reduce(torch.amin),
    "relax.nn.adaptive_avg_pool2d": _adaptive_average,
    "relax.nn.avg_pool2d": _pool("average"),
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.conv2d": _conv2d,
    "relax.nn.gelu_tanh": _plain(functional.gelu, approximate="tanh"),
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.nn.log_softmax": _softmax(torch.log_softmax),
    "relax.nn.max_pool2d": _pool("max"),
    "relax.nn.pad": _pad,
    "relax.nn.softmax": _softmax(torch.softmax),
    "relax.permute_dims": _permute,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.sum": _reduce(torch.sum),
    "relax.take": _take,
}
"""Relax operators that can be trained, and how they are written."""
