# SPDX-License-Identifier: Apache-2.0
"""What a stage costs, estimated without running or compiling it.

Layers count the cycles by which the compiler itself chooses register tiles, the order of loops and
Winograd's method (`decnn_tvm.schedules.register_tiles`, `loop_order`, `winograd_choice`); weights
come from memory once; tensors are streamed; a kernel costs `KERNEL_CYCLES` to call. Operators that
are fused into the kernel before them cost nothing of their own. Cycles become seconds by a device's
clock (`decnn_tvm.planning.speeds`), which a profile measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.passes.multiply_accumulates import multiply_accumulates
from decnn_tvm.passes.weights import static_shape
from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.schedules.dense import dense_problem
from decnn_tvm.schedules.dense_lowering import dense_tile
from decnn_tvm.schedules.depthwise_convolution import depthwise_problem
from decnn_tvm.schedules.loop_order import Order, choose_loops
from decnn_tvm.schedules.register_tiles import (
    STREAM_BYTES,
    Tile,
    TileProblem,
    choose_tile,
    convolution_problem,
    cycles,
    first_read_cycles,
)
from decnn_tvm.schedules.vectors import round_lanes, vector_lanes, vector_registers
from decnn_tvm.schedules.winograd_choice import choose_winograd
from decnn_tvm.schedules.winograd_transforms import KERNEL

KERNEL_CYCLES = 4000.0
"""Calling a kernel: 1 to 2 us on the machines that were measured."""
WINOGRAD_WEIGHTS = 4
"""Packed weights of Winograd's method take so many times the memory."""
_FLOAT = 4
_MOVING = frozenset(
    f"relax.{name}"
    for name in (
        "concat nn.max_pool2d nn.avg_pool2d nn.adaptive_avg_pool2d mean nn.softmax astype "
        "strided_slice take split nn.pad image.resize2d permute_dims nn.lrn"
    ).split()
)
"""Operators with a kernel of their own that mainly moves data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One kernel of a stage.

    Attributes
    ----------
    name : str
        Its weights, or what it reads where it has none.
    operator : str
        Relax's name of the operator.
    kind : {"conv2d", "winograd", "depthwise", "dense", "other"}
        How it is computed.
    macs : int
        Multiply-accumulates.
    cycles : float
        Estimated.
    weight_bytes : int
        Packed weights.
    workspace_bytes : int
        Its input and its output.
    """

    name: str
    operator: str
    kind: str
    macs: int
    cycles: float
    weight_bytes: int
    workspace_bytes: int


def layer_costs(
    stage: relax.Function, target: tvm.target.Target, *, winograd: bool
) -> tuple[LayerCost, ...]:
    """Return the cost of each kernel of a stage function before it is lowered."""
    costs = _Costs(target, winograd)
    return tuple(costs.of(stage))


class _Costs:
    def __init__(self, target: tvm.target.Target, winograd: bool) -> None:
        self.target = target
        self.lanes, self.registers = vector_lanes(target), vector_registers(target)
        self.winograd = winograd

    def of(self, stage: relax.Function) -> Iterator[LayerCost]:
        for block in stage.body.blocks:
            for binding in block.bindings:
                call = binding.value
                if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
                    continue
                name = str(call.op.name)
                if name == "relax.nn.conv2d":
                    yield self._convolution(call)
                elif name == "relax.matmul" and len(static_shape(call.args[1])) == 2:
                    yield self._dense(call)
                elif name in _MOVING or name in ("relax.nn.conv2d_transpose", "relax.matmul"):
                    yield self._other(call)

    def _convolution(self, call: relax.Call) -> LayerCost:
        outputs, inputs, *_ = static_shape(call.args[1])
        groups = int(call.attrs.groups)
        if inputs == 1 and groups == outputs > 1:
            return self._depthwise(call)
        block = preferred_block(outputs // groups)
        if block == 1:  # the plain layout is taken by vectors
            block = min(outputs // groups, self.lanes)
        lanes = round_lanes(block, self.lanes)
        blocks = -(-outputs // (groups * block))
        problem = self._problem(call, lanes=lanes, blocks=blocks)
        if self.winograd and self._suits_winograd(call, inputs, outputs // groups):
            plan = choose_winograd(problem, inputs, outputs // groups, self.lanes)
            if plan is not None:
                packed = WINOGRAD_WEIGHTS * _bytes(call.args[1])
                return self._cost(call, "winograd", groups * plan.cycles, packed)
        weights = _bytes(call.args[1]) * groups * blocks * lanes // outputs
        tile = choose_tile(problem)
        keeps_input = choose_loops(problem, tile).order is Order.INPUT
        count = groups * cycles(problem, tile, keeps_input=keeps_input)
        return self._cost(call, "conv2d", count + first_read_cycles(weights), weights)

    def _depthwise(self, call: relax.Call) -> LayerCost:
        channels, _, *window = static_shape(call.args[1])
        height, width = static_shape(call)[2:]
        problem = depthwise_problem(height, width, (window[0], window[1]), self.target)
        block = preferred_block(channels)
        vectors = channels // block * -(-round_lanes(block, self.lanes) // self.lanes)
        weights = _FLOAT * vectors * self.lanes * math.prod(window)
        count = vectors * cycles(problem, choose_tile(problem)) + first_read_cycles(weights)
        return self._cost(call, "depthwise", count, weights)

    def _problem(self, call: relax.Call, *, lanes: int, blocks: int) -> TileProblem:
        _, inputs, kernel_rows, kernel_columns = static_shape(call.args[1])
        return convolution_problem(
            pixels=(static_shape(call)[2], static_shape(call)[3]),
            blocks=blocks,
            lanes=lanes,
            steps=inputs * kernel_rows * kernel_columns,
            source=math.prod(static_shape(call.args[0])) // int(call.attrs.groups),
            copied=any(int(value) for value in call.attrs.padding),
            vector_lanes=self.lanes,
            registers=self.registers,
            chunks=inputs // preferred_block(inputs),
        )

    def _suits_winograd(self, call: relax.Call, inputs: int, outputs: int) -> bool:
        steps = [int(step) for step in (*call.attrs.strides, *call.attrs.dilation)]
        whole = not any(preferred_block(count) % self.lanes for count in (inputs, outputs))
        kernel = tuple(static_shape(call.args[1])[2:])
        return kernel == (KERNEL, KERNEL) and {*steps} == {1} and whole

    def _dense(self, call: relax.Call) -> LayerCost:
        batch = math.prod(static_shape(call)[:-1])
        features, outputs = static_shape(call.args[1])[-2:]
        vectors, rows = dense_tile(batch, features, outputs, self.target)
        blocks = -(-outputs // (vectors * self.lanes))
        problem = dense_problem(batch, features, vectors, self.target)
        weights = _FLOAT * features * blocks * vectors * self.lanes
        count = blocks * cycles(problem, Tile(rows=1, columns=rows, blocks=1))
        return self._cost(call, "dense", count + first_read_cycles(weights), weights)

    def _other(self, call: relax.Call) -> LayerCost:
        moved = sum(map(_bytes, _operands(call))) + _bytes(call)
        return self._cost(
            call, "other", moved / STREAM_BYTES + multiply_accumulates(call) / self.lanes, 0
        )

    def _cost(self, call: relax.Call, kind: str, count: float, weights: int) -> LayerCost:
        data = _operands(call)
        # A layer goes by the name of its weights.
        names = [str(each.name) for each in (data[1:] if kind != "other" else data)]
        return LayerCost(
            name=next(iter(names), str(call.op.name)),
            operator=str(call.op.name).removeprefix("relax."),
            kind=kind,
            macs=multiply_accumulates(call),
            cycles=count + KERNEL_CYCLES,
            weight_bytes=weights,
            workspace_bytes=_bytes(data[0]) + _bytes(call) if data else _bytes(call),
        )


def _operands(call: relax.Call) -> list[relax.Var]:
    """Return the tensors that a call reads, those of a tuple one by one."""
    given = [arg.fields if isinstance(arg, relax.Tuple) else [arg] for arg in call.args]
    return [each for fields in given for each in fields if isinstance(each, relax.Var)]


def _bytes(expr: relax.Expr) -> int:
    if not isinstance(expr.ty, relax.TensorType):
        return 0
    return math.prod(static_shape(expr)) * np.dtype(str(expr.ty.dtype)).itemsize
