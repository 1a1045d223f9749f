# SPDX-License-Identifier: Apache-2.0
"""One operator on the strip of rows that a device holds.

The rows that a window needs are there, padding among them, so the operator itself pads columns
alone. A strip may hold rows at its end that only a longer stride would reach; they are cut off. A
mean over whole feature maps becomes this device's summand of it.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from decnn_tvm.passes.row_windows import row_geometry
from decnn_tvm.passes.weights import is_call, static_shape

_WINDOWED = ("relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d")
_SUMS = ("relax.nn.adaptive_avg_pool2d", "relax.mean", "relax.sum")


def localize_strip(
    call: relax.Call,
    args: list[relax.Expr],
    local_shape: tuple[int, ...],
    builder: relax.BlockBuilder,
) -> relax.Expr | None:
    """Return `call` on a device's strip; None where the operator is the same there.

    Parameters
    ----------
    call : relax.Call
        The operator on whole tensors.
    args : list of relax.Expr
        Its arguments on this device.
    local_shape : tuple of int
        The shape of the local result.
    builder : relax.BlockBuilder
        Takes what must be emitted before the operator.
    """
    if call.op.name in _WINDOWED:
        return _windowed(call, args, local_shape[2], builder)
    if call.op.name in _SUMS:
        return _summand(call, args[0], builder)
    if is_call(call, "relax.nn.pad"):
        widths = [int(width) for width in call.attrs.pad_width]
        return relax.op.nn.pad(args[0], [*widths[:4], 0, 0, *widths[6:]])
    return None


def _windowed(
    call: relax.Call, args: list[relax.Expr], result: int, builder: relax.BlockBuilder
) -> relax.Expr:
    stride, _, reach = row_geometry(call)
    data, needed = args[0], (result - 1) * stride + reach + 1
    if static_shape(data)[2] > needed:
        data = builder.emit(relax.op.strided_slice(data, [2], [0], [needed], assume_inbound=True))
    attrs = call.attrs
    padding = (0, int(attrs.padding[1]), 0, int(attrs.padding[3]))
    if is_call(call, "relax.nn.conv2d"):
        return relax.op.nn.conv2d(
            data,
            args[1],
            strides=attrs.strides,
            padding=padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            out_dtype=attrs.out_dtype or None,
        )
    pool = getattr(relax.op.nn, call.op.name.rpartition(".")[2])
    return pool(
        data,
        attrs.pool_size,
        strides=attrs.strides,
        padding=padding,
        dilation=attrs.dilation,
        ceil_mode=attrs.ceil_mode,
        count_include_pad=attrs.count_include_pad,
    )


def _summand(call: relax.Call, data: relax.Expr, builder: relax.BlockBuilder) -> relax.Expr:
    keeps = is_call(call, "relax.nn.adaptive_avg_pool2d") or bool(call.attrs.keepdims)
    total = relax.op.sum(data, [2, 3], keepdims=keeps)
    if is_call(call, "relax.sum"):
        return total
    elements = math.prod(static_shape(call.args[0])[2:])
    factor = relax.const(np.float32(1 / elements))
    return relax.op.multiply(builder.emit(total), factor)
