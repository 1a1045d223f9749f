# SPDX-License-Identifier: Apache-2.0
"""One placement rule per operator: what it needs of its operands, and what that gives.

A rule is a pure function of shapes, attributes and the operands' placements. It returns a
`Decision`, or a string: the reason why the operator can't run on shards, upon which its operands
are gathered and it runs replicated. Nothing here changes the IR.

Notation: a tensor with C channels is sharded over G channel groups along an axis; padding channels
hold finite values that nothing reads, so a rule must not let them become infinite.

The rules stand in one long file: they are read against each other, and share their few helpers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.passes.weights import static_shape
from decnn_tvm.placement.ownership import (
    Groups,
    concat,
    deal,
    deal_conv_groups,
    deal_outputs,
    expand,
    find_conv_groups,
    is_padded,
    rename,
    reorder_within_runs,
)
from decnn_tvm.placement.shard import WeightShard
from decnn_tvm.plan import PAD, Partial, Placement, Replicated, Sharded

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor argument: `placement` is None for a weight or constant."""

    shape: Shape
    placement: Placement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an operator needs and gives.

    Attributes
    ----------
    operands : mapping of int to Placement
        Argument position to the placement it must have.
    weights : mapping of int to WeightShard
        Argument position to the slicing of that weight; others are replicated.
    result : Placement
        The placement of the result.
    carries_order : bool
        The local order of the result is that of the sharded operands, index for index.
    free_order : bool
        The local order of the result may be chosen.
    """

    operands: Mapping[int, Placement]
    result: Placement
    weights: Mapping[int, WeightShard] = field(default_factory=dict)
    carries_order: bool = False
    free_order: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a rule may know beyond its operands.

    Attributes
    ----------
    groups : int
        Number of channel groups.
    preferred : Groups, optional
        The local order that the result should have, where it is free.
    gathered : collection of int
        Arguments that are needed replicated elsewhere, so that gathering them again is free.
    """

    groups: int
    preferred: Groups | None = None
    gathered: frozenset[int] = frozenset()


Rule: TypeAlias = Callable[[relax.Call, Sequence[Operand | None], Context], Decision | str]
_RULES: dict[str, Rule] = {}


def rule_for(call: relax.Call) -> Rule | None:
    """Return the rule of the operator that `call` calls."""
    return _RULES.get(call.op.name) if isinstance(call.op, tvm.ir.Op) else None


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update({f"relax.{name}": rule for name in names})
        return rule

    return register


def settle(operand: Operand, groups: int) -> Placement:
    """Return the placement to use where a host tensor or partial sum can't be used as it is."""
    if isinstance(operand.placement, Partial) and len(operand.shape) > 1:
        return Sharded(1, deal(operand.shape[1], groups))
    if isinstance(operand.placement, Sharded):
        return operand.placement
    return Replicated()


def _activations(args: Sequence[Operand | None]) -> dict[int, Operand]:
    return {i: a for i, a in enumerate(args) if a is not None and a.placement is not None}


# Where the value at padding, computed from zeros or finite garbage, may be infinite or NaN.
_UNSAFE_AT_PADDING = {"divide", "floor_divide", "power", "log", "rsqrt", "sqrt", "tan", "mod"}
_LINEAR = {"add", "subtract"}
_ELEMENTWISE = """
    abs add astype ceil clip cos divide equal erf exp floor floor_divide greater greater_equal
    isfinite isinf isnan less less_equal log logical_and logical_not logical_or maximum minimum mod
    multiply negative nn.dropout nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.relu6 nn.silu
    nn.softplus not_equal power round rsqrt sigmoid sign sin sqrt square subtract tan tanh where
    """.split()


@_rule(*_ELEMENTWISE)
def _elementwise(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Elementwise with broadcasting: keeps the sharding of its operands."""
    name, rank = call.op.name.removeprefix("relax."), len(call.ty.shape)
    active = _activations(args)
    partial = _partial_sum(call, active, args)
    if partial is not None:
        return partial
    lead = _leading(active, static_shape(call), context.groups)
    if not isinstance(lead, Sharded):
        return Decision(operands=dict.fromkeys(active, Replicated()), result=Replicated())
    if name in _UNSAFE_AT_PADDING and is_padded(lead.groups):
        return f"{name} of padding channels"
    operands: dict[int, Placement] = {}
    shards: dict[int, WeightShard] = {}
    for i, arg in enumerate(args):
        if arg is None:
            continue
        axis = lead.axis - (rank - len(arg.shape))
        whole = axis < 0 or arg.shape[axis] == 1
        if arg.placement is not None:
            operands[i] = Replicated() if whole else Sharded(axis, lead.groups)
        elif not whole and isinstance(call.args[i], tvm.ir.GenericConst):
            return f"{name} with a constant per channel"
        elif not whole:
            shards[i] = WeightShard(axes={axis: lead.groups}, combine="concat", axis=axis)
    return Decision(operands=operands, result=lead, weights=shards, carries_order=True)


def _partial_sum(
    call: relax.Call, active: Mapping[int, Operand], args: Sequence[Operand | None]
) -> Decision | None:
    """Keep a sum of partial sums, or of one and a bias, partial: one group adds the bias.

    A constant, which has no slice of its own per group, would be added by every group.
    """
    name = call.op.name.removeprefix("relax.")
    added = {i: a for i, a in enumerate(args) if a is not None and a.placement is None}
    if name not in _LINEAR or any(isinstance(call.args[i], tvm.ir.GenericConst) for i in added):
        return None
    if not active or not all(isinstance(a.placement, Partial) for a in active.values()):
        return None
    return Decision(
        operands=dict.fromkeys(active, Partial()),
        weights={i: WeightShard(combine="sum") for i, a in added.items()},
        result=Partial(),
    )


def _leading(active: Mapping[int, Operand], shape: Shape, groups: int) -> Placement:
    """Return the placement that the result, of shape `shape`, takes: not that of a broadcast."""
    placements: list[tuple[int, Placement]] = []
    for operand in active.values():
        placement = settle(operand, groups)
        if isinstance(placement, Sharded):
            axis = placement.axis + len(shape) - len(operand.shape)
            if operand.shape[placement.axis] != shape[axis]:
                continue
            placement = Sharded(axis, placement.groups)
            kept = not isinstance(operand.placement, Partial)
            placements.append((math.prod(operand.shape) * 2 + kept, placement))
    return max(placements, key=lambda p: p[0])[1] if placements else Replicated()


@_rule("nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "image.resize2d", "nn.pad")
def _spatial(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Work on each channel by itself: keeps a sharding of axis 1."""
    layout = getattr(call.attrs, "layout", "NCHW")
    widths = [int(w) for w in getattr(call.attrs, "pad_width", ())]
    assert args[0] is not None
    placement = settle(args[0], context.groups)
    if isinstance(placement, Sharded) and (
        placement.axis != 1 or layout != "NCHW" or any(widths[2:4])
    ):
        return f"{call.op.name} in layout {layout} over axis {placement.axis}"
    return Decision(operands={0: placement}, result=placement, carries_order=True)


@_rule("mean", "sum", "max", "min")
def _reduction(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Reduce axes other than the sharded one: keeps the sharding."""
    assert args[0] is not None
    placement = settle(args[0], context.groups)
    if not isinstance(placement, Sharded):
        return Decision(operands={0: placement}, result=placement)
    rank = len(args[0].shape)
    if call.attrs.axis is None:
        return "reduction over all axes"
    axes = {int(axis) % rank for axis in call.attrs.axis}
    if placement.axis in axes:
        return "reduction over the sharded axis"
    dropped = 0 if call.attrs.keepdims else sum(axis < placement.axis for axis in axes)
    result = Sharded(placement.axis - dropped, placement.groups)
    return Decision(operands={0: placement}, result=result, carries_order=True)


@_rule("nn.softmax", "nn.log_softmax")
def _softmax(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Normalise over another axis than the sharded one: keeps the sharding."""
    assert args[0] is not None
    placement = settle(args[0], context.groups)
    if isinstance(placement, Sharded) and int(call.attrs.axis) % len(args[0].shape) == (
        placement.axis
    ):
        return "softmax over the sharded axis"
    return Decision(operands={0: placement}, result=placement, carries_order=True)


@_rule("nn.prelu")
def _prelu(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Activation with one slope per channel."""
    data, slope = args
    assert data is not None
    placement = settle(data, context.groups)
    if slope is None or slope.placement is not None:
        return "computed slopes"
    shards: dict[int, WeightShard] = {}
    if isinstance(placement, Sharded):
        if placement.axis != int(call.attrs.axis) % len(data.shape):
            return "slopes along another axis"
        shards[1] = WeightShard(axes={0: placement.groups}, combine="concat")
    return Decision(operands={0: placement}, result=placement, weights=shards, carries_order=True)


@_rule("concat")
def _concat(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Concatenate ownership along the sharded axis."""
    active = _activations(args)
    if len(active) != len(args):
        return "concatenation with a constant"
    axis = int(call.attrs.axis) % len(call.ty.shape)
    placements = {i: settle(operand, context.groups) for i, operand in active.items()}
    sharded = [p for p in placements.values() if isinstance(p, Sharded)]
    if not sharded:
        return Decision(operands=placements, result=Replicated())
    lead = sharded[0]
    if lead.axis != axis:
        same = Sharded(lead.axis, lead.groups)
        return Decision(operands=dict.fromkeys(active, same), result=same, carries_order=True)
    parts: dict[int, Sharded] = {}
    for i, operand in active.items():
        own = placements[i]
        if not isinstance(own, Sharded) or own.axis != axis:
            own = Sharded(axis, deal(operand.shape[axis], context.groups))
        parts[i] = own
    joined = concat([(parts[i].groups, active[i].shape[axis]) for i in sorted(active)])
    return Decision(operands=parts, result=Sharded(axis, joined))


@_rule("take")
def _take(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Rename channels: a permutation with constant indices."""
    data, indices = args[0], call.args[1]
    assert data is not None
    placement = settle(data, context.groups)
    if not isinstance(indices, tvm.ir.GenericConst):
        return "computed indices"
    if not isinstance(placement, Sharded):
        return Decision(operands={0: placement}, result=placement)
    chosen = [int(i) for i in np.atleast_1d(indices.value.numpy())]
    if call.attrs.axis is None or int(call.attrs.axis) % len(data.shape) != placement.axis:
        return "indices along another axis"
    if sorted(chosen) != list(range(data.shape[placement.axis])):
        return "indices that are no permutation"
    names = {source: target for target, source in enumerate(chosen)}
    result = Sharded(placement.axis, rename(placement.groups, names))
    return Decision(operands={0: placement}, result=result)


@_rule("strided_slice")
def _strided_slice(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Slice another axis locally; a slice of channels is dealt out anew, then renamed."""
    data = args[0]
    assert data is not None
    placement = settle(data, context.groups)
    if not isinstance(placement, Sharded):
        return Decision(operands={0: placement}, result=placement)
    chosen = slice_of(call, placement.axis, data.shape[placement.axis])
    if chosen is None:
        return "computed slice"
    if placement.axis not in sliced_axes(call):
        return Decision(operands={0: placement}, result=placement, carries_order=True)
    if len(sliced_axes(call)) > 1:
        return "slice of channels and of another axis"
    result = deal(len(chosen), context.groups)
    needed = rename(result, dict(enumerate(chosen)))
    return Decision(
        operands={0: Sharded(placement.axis, needed)}, result=Sharded(placement.axis, result)
    )


def slice_of(call: relax.Call, axis: int, extent: int) -> list[int] | None:
    """Return the indices that a strided slice takes along `axis`; None where they are computed."""
    try:
        fields = [[int(f) for f in a.fields] for a in call.args[1:]]
    except (AttributeError, TypeError, ValueError):
        return None
    axes = [a % len(call.args[0].ty.shape) for a in fields[0]]
    if axis not in axes:
        return list(range(extent))
    at = axes.index(axis)
    step = fields[3][at] if len(fields) > 3 else 1
    return list(range(extent))[slice(fields[1][at], fields[2][at], step)] if step > 0 else None


def sliced_axes(call: relax.Call) -> set[int]:
    """Return the axes along which a strided slice with constant bounds cuts."""
    return {int(axis) % len(call.args[0].ty.shape) for axis in call.args[1].fields}


@_rule("permute_dims")
def _permute_dims(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Move the sharded axis."""
    assert args[0] is not None
    placement = settle(args[0], context.groups)
    if not isinstance(placement, Sharded):
        return Decision(operands={0: placement}, result=placement)
    axes = call.attrs.axes
    order = [int(a) for a in axes] if axes else list(range(len(args[0].shape)))[::-1]
    result = Sharded(order.index(placement.axis), placement.groups)
    return Decision(operands={0: placement}, result=result, carries_order=True)


@_rule("reshape", "squeeze", "expand_dims", "flatten")
def _reshape(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Flatten channels into features, or keep the sharded axis as it is."""
    assert args[0] is not None
    placement = settle(args[0], context.groups)
    source, target = args[0].shape, static_shape(call)
    if not isinstance(placement, Sharded):
        return Decision(operands={0: placement}, result=placement)
    axis = placement.axis
    before = math.prod(source[:axis])
    for at, extent in enumerate(target):
        if extent == source[axis] and math.prod(target[:at]) == before:
            result = Sharded(at, placement.groups)
            return Decision(operands={0: placement}, result=result, carries_order=True)
    if len(target) != 2 or target[0] != source[0]:
        return f"reshape of {source} to {target} with axis {axis} sharded"
    return Decision(operands={0: placement}, result=Sharded(1, flattened(placement, source)))


def flattened(placement: Sharded, source: Shape) -> Groups:
    """Return feature ownership after ``(B, ..., C, ...) -> (B, F)``, channel by channel.

    The local shard is flattened with its channels outermost, whatever the axis order; the weights
    after it absorb that.
    """
    axis = placement.axis
    features = np.arange(math.prod(source[1:])).reshape(source[1:])
    by_channel = np.moveaxis(features, axis - 1, 0).reshape(source[axis], -1)
    return expand(placement.groups, lambda c: by_channel[c].tolist(), by_channel.shape[1])


@_rule("matmul")
def _dense(call: relax.Call, args: Sequence[Operand | None], context: Context) -> Decision | str:
    """Multiply by a weight: sharded features give a partial sum, whole ones sharded outputs."""
    data, weight = args
    if data is None or data.placement is None or weight is None or weight.placement is not None:
        return "matmul of two activations"
    if len(weight.shape) != 2 or len(data.shape) != 2:
        return f"matmul of shapes {data.shape} and {weight.shape}"
    placement = settle(data, context.groups)
    if isinstance(placement, Sharded):
        if placement.axis != 1:
            return "matmul with sharded rows"
        shard = WeightShard(axes={0: placement.groups}, combine="concat", axis=0)
        return Decision(operands={0: placement}, weights={1: shard}, result=Partial())
    outputs = _ordered(deal(weight.shape[1], context.groups), context)
    shard = WeightShard(axes={1: outputs}, combine="concat", axis=1)
    return Decision(
        operands={0: placement}, weights={1: shard}, result=Sharded(1, outputs), free_order=True
    )


def _ordered(outputs: Groups, context: Context) -> Groups:
    if context.preferred is None:
        return outputs
    return reorder_within_runs(outputs, context.preferred, len(outputs[0]))


@_rule("nn.conv2d")
def _convolution(
    call: relax.Call, args: Sequence[Operand | None], context: Context
) -> Decision | str:
    """Convolve: whole channel groups locally, a dense one after a gather or before a reduction."""
    data, weight = args
    if weight is None or weight.placement is not None or data is None:
        return "computed convolution weights"
    if (call.attrs.data_layout, call.attrs.kernel_layout) != ("NCHW", "OIHW"):
        return f"layout {call.attrs.data_layout}"
    placement = settle(data, context.groups)
    if int(call.attrs.groups) > 1:
        return _group_convolution(call, data, weight, placement, context)
    gather = math.prod(data.shape)
    scatter = math.prod(static_shape(call))
    if not isinstance(placement, Sharded) or 0 in context.gathered or gather <= scatter:
        outputs = _ordered(deal(weight.shape[0], context.groups), context)
        shard = WeightShard(axes={0: outputs}, combine="concat", axis=0)
        return Decision(
            operands={0: Replicated()},
            weights={1: shard},
            result=Sharded(1, outputs),
            free_order=True,
        )
    shard = WeightShard(axes={1: placement.groups}, combine="concat", axis=1)
    return Decision(operands={0: placement}, weights={1: shard}, result=Partial())


def _group_convolution(
    call: relax.Call, data: Operand, weight: Operand, placement: Placement, context: Context
) -> Decision:
    conv_groups, channels = int(call.attrs.groups), data.shape[1]
    found = None
    if isinstance(placement, Sharded):
        found = find_conv_groups(placement.groups, conv_groups, channels)
    if found is None or not isinstance(placement, Sharded):
        inputs = deal_conv_groups(conv_groups, channels, context.groups)
        placement = Sharded(1, _source_major(inputs, placement, conv_groups, channels))
        found = find_conv_groups(placement.groups, conv_groups, channels)
        assert found is not None
    outputs = deal_outputs(found, conv_groups, weight.shape[0])
    depthwise = weight.shape[1] == 1
    if context.preferred is not None and not depthwise:
        run = len(outputs[0]) // len(found.ids[0])
        outputs = reorder_within_runs(outputs, context.preferred, run)
    size = channels // conv_groups
    within = tuple(
        tuple(tuple(PAD if c == PAD else c % size for c in run) for run in runs)
        for runs in found.runs
    )
    shard = WeightShard(
        axes={0: outputs}, inputs=None if depthwise else within, combine="concat", axis=0
    )
    return Decision(
        operands={0: placement},
        weights={1: shard},
        result=Sharded(1, outputs),
        free_order=not depthwise,
        carries_order=depthwise and weight.shape[0] == channels,
    )


def _source_major(inputs: Groups, placement: Placement, conv_groups: int, channels: int) -> Groups:
    """Order the channels to receive as their senders hold them, within convolution groups."""
    if not isinstance(placement, Sharded):
        return inputs
    order = {c: (g, i) for g, group in enumerate(placement.groups) for i, c in enumerate(group)}
    size = channels // conv_groups
    return tuple(
        tuple(
            c
            for start in range(0, len(group), size)
            for c in sorted(group[start : start + size], key=lambda c: order.get(c, (0, 0)))
        )
        for group in inputs
    )


def whole(args: Sequence[Operand | None]) -> Decision:
    """Return the fallback: gather every operand, run replicated."""
    return Decision(operands=dict.fromkeys(_activations(args), Replicated()), result=Replicated())
