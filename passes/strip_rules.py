# SPDX-License-Identifier: Apache-2.0
"""Placement rules for a network whose feature maps are split by rows.

With G strips, a tensor of H rows is owned in strips of ``ceil(H / G)``; the last ones may be partly
or wholly padding. An operator with a window of rows needs more (`decnn_tvm.passes.row_windows`)::

    rows of the output     strips of h                     of a device with k groups: k h
    rows that they need    strips of h * stride from -top  (k h - 1) stride + reach + 1

which a movement brings: the halo, and rows that neighbouring layers divide otherwise. Padding of a
layer is rows like others, of zeros, or of the lowest value for a maximum; so what an operator needs
says what padding holds. What an operator makes of padding is garbage that nobody reads.

These rules are for operators on feature maps (N, C, H, W) with more than one row. Behind a global
pool or where features are flat, the rules for channels hold (`decnn_tvm.passes.placement_rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
from tvm import relax

from decnn_tvm.passes.channel_blocks import ELEMENTWISE
from decnn_tvm.passes.placement_rules import (
    Context,
    Decision,
    Operand,
    Rule,
    flattened,
    rule_for,
    sliced_axes,
)
from decnn_tvm.passes.row_windows import row_geometry
from decnn_tvm.passes.weights import static_shape
from decnn_tvm.plan import Partial, Placement, Replicated, Sharded, Strips, held

ROWS = 2
_STRIP_RULES: dict[str, Rule] = {}


def strip_rule_for(call: relax.Call) -> Rule | None:
    """Return the rule of the operator that `call` calls, whatever its operands are."""
    if not isinstance(call.op, tvm.ir.Op):
        return None

    def rule(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
        chosen = _STRIP_RULES if any(map(_has_rows, args)) else None
        found = rule_for(call) if chosen is None else chosen.get(call.op.name)
        return "no rule for rows" if found is None else found(call, args, context)

    return rule


def own_strips(rows: int, context: Context) -> Strips:
    """Return how a tensor of some rows is owned."""
    return Strips(ROWS, math.ceil(rows / context.groups))


def clean_strips(rows: int, context: Context) -> Strips:
    """Return the same with padding of zeros, where there is any."""
    own = own_strips(rows, context)
    if own.step * context.groups == rows:
        return own
    return Strips(ROWS, own.step, padding="zero")


def _has_rows(operand: Operand | None) -> bool:
    if operand is None or operand.placement is None:
        return False
    return len(operand.shape) == 4 and operand.shape[ROWS] > 1


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _STRIP_RULES.update({f"relax.{name}": rule for name in names})
        return rule

    return register


@_rule(*(name.removeprefix("relax.") for name in ELEMENTWISE), "nn.prelu")
def _elementwise(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Elementwise with broadcasting: row y of the result comes from row y of the operands."""
    shape = static_shape(call)
    if len(shape) != 4:
        return f"a result of shape {shape}"
    own = own_strips(shape[ROWS], context)
    operands: dict[int, Placement] = {}
    for i, arg in enumerate(args):
        rows = arg.shape[-2] if arg is not None and len(arg.shape) >= 2 else 1
        if arg is None or arg.placement is None:
            if rows != 1 and call.op.name != "relax.nn.prelu":
                return "a constant for each row"
        elif rows == shape[ROWS]:
            operands[i] = own
        elif rows == 1:
            operands[i] = Replicated()
        else:
            return f"operand of {rows} rows for {shape[ROWS]}"
    return Decision(operands=operands, result=own)


@_rule("nn.conv2d", "nn.max_pool2d", "nn.avg_pool2d")
def _windowed(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Slide a window over the rows."""
    data = args[0]
    if data is None or any(arg is not None and arg.placement is not None for arg in args[1:]):
        return "computed convolution weights"
    layout = call.attrs.data_layout if "conv2d" in call.op.name else call.attrs.layout
    if layout != "NCHW" or getattr(call.attrs, "kernel_layout", "OIHW") != "OIHW":
        return f"layout {layout}"
    height, result = data.shape[ROWS], static_shape(call)[ROWS]
    stride, top, reach = row_geometry(call)
    overhang = (result - 1) * stride - top + reach + 1 - height
    if call.op.name == "relax.nn.avg_pool2d" and not _counts_padding(call, top, overhang):
        return "an average that leaves padding out"
    own, own_result = own_strips(height, context), own_strips(result, context)
    lowest = call.op.name == "relax.nn.max_pool2d"
    needed = Strips(
        ROWS,
        own_result.step * stride,
        -top,
        reach + 1 - stride,
        "lowest" if lowest else "zero",
    )
    # Where every window stays within the strip, its rows are there already.
    within = needed.step == own.step and not top and needed.extra <= 0 and overhang <= 0
    return Decision(operands={0: own if within else needed}, result=own_result)


def _counts_padding(call: relax.Call, top: int, overhang: int) -> bool:
    """Tell whether all averages over rows divide by the same number."""
    bottom = int(call.attrs.padding[2])
    if overhang > bottom:
        return False
    return bool(call.attrs.count_include_pad) or not (top or bottom)


@_rule("nn.adaptive_avg_pool2d", "mean", "sum")
def _global_pool(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Sum over all rows: every device has a summand."""
    data = args[0]
    assert data is not None
    if call.op.name == "relax.nn.adaptive_avg_pool2d":
        whole = call.attrs.layout == "NCHW" and static_shape(call)[ROWS:] == (1, 1)
    else:
        axes = call.attrs.axis
        whole = axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}
    if not whole:
        return "no sum over whole feature maps"
    clean = clean_strips(data.shape[ROWS], context)
    return Decision(operands={0: clean}, result=Partial())


@_rule("nn.pad")
def _pad(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Pad with zeros: the rows are those of a movement."""
    if call.attrs.pad_mode != "constant" or float(call.attrs.pad_value) != 0:
        return "padding by other than zeros"
    top = int(call.attrs.pad_width[2 * ROWS])
    own = own_strips(static_shape(call)[ROWS], context)
    return Decision(operands={0: Strips(ROWS, own.step, -top, 0, "zero")}, result=own)


@_rule("concat")
def _concat(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Concatenate along another axis."""
    if int(call.attrs.axis) % 4 == ROWS:
        return "concatenation of rows"
    if any(arg is None or arg.placement is None for arg in args):
        return "concatenation with a constant"
    own = own_strips(static_shape(call)[ROWS], context)
    return Decision(operands=dict.fromkeys(range(len(args)), own), result=own)


@_rule("take", "strided_slice", "nn.softmax", "nn.log_softmax")
def _along_another_axis(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Choose or normalise along another axis."""
    if call.op.name == "relax.strided_slice":
        try:
            axes = sliced_axes(call)
        except AttributeError:
            return "computed slice"
    elif any(arg is not None and arg.placement is not None for arg in args[1:]):
        return "computed indices"
    else:
        axes = {2 if call.attrs.axis is None else int(call.attrs.axis) % 4}
    if ROWS in axes or len(static_shape(call)) != 4:
        return f"{call.op.name} along rows"
    own = own_strips(static_shape(call)[ROWS], context)
    return Decision(operands={0: own}, result=own)


@_rule("permute_dims")
def _permute_dims(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Turn what comes from elsewhere into feature maps, as from NHWC."""
    data = args[0]
    assert data is not None
    axes = call.attrs.axes
    order = [int(axis) for axis in axes] if axes else [3, 2, 1, 0]
    if isinstance(data.placement, Strips) and order[ROWS] != data.placement.axis:
        return "rows become another axis"
    own = own_strips(static_shape(call)[ROWS], context)
    return Decision(operands={0: Strips(order[ROWS], own.step)}, result=own)


@_rule("reshape", "flatten")
def _flatten(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Flatten rows into features, row by row: a dense layer then multiplies those it has."""
    data = args[0]
    assert data is not None
    target = static_shape(call)
    if len(target) != 2 or target[0] != data.shape[0]:
        return f"reshape of {data.shape} to {target}"
    clean = clean_strips(data.shape[ROWS], context)
    rows = Sharded(ROWS, tuple(held(clean, data.shape[ROWS], (g,)) for g in range(context.groups)))
    return Decision(operands={0: clean}, result=Sharded(1, flattened(rows, data.shape)))
