# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of one operator, counted without running anything."""

from __future__ import annotations

import math

import tvm
from tvm import relax

from decnn_tvm.passes.weights import static_shape

WEIGHTED = {
    "relax.nn.conv2d": "conv2d",
    "relax.nn.conv2d_transpose": "conv2d_transpose",
    "relax.matmul": "dense",
}
"""Operators that count, and what people call them."""


def multiply_accumulates(call: relax.Call) -> int:
    """Return the multiply-accumulates of `call`: one is one weight times one value.

    A convolution has ``N O H W * I/G * KH * KW``, a dense layer ``N * inputs * outputs``; other
    operators count as none.
    """
    kind = WEIGHTED.get(call.op.name) if isinstance(call.op, tvm.ir.Op) else None
    if kind == "dense":
        return math.prod(static_shape(call)) * static_shape(call.args[0])[-1]
    if kind == "conv2d":
        return math.prod(static_shape(call)) * math.prod(static_shape(call.args[1])[1:])
    if kind == "conv2d_transpose":
        return math.prod(static_shape(call.args[0])) * math.prod(static_shape(call.args[1])[1:])
    return 0
