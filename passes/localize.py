# SPDX-License-Identifier: Apache-2.0
"""One operator, on the local shards of a device.

Most operators are the same on a shard. A group convolution has as many groups as the device
holds, reshapes have local shapes, and what only renames channels disappears.
"""

from __future__ import annotations

import tvm
from tvm import relax

from decnn_tvm.passes.dataflow_graph import convolve
from decnn_tvm.passes.localize_strips import localize_strip
from decnn_tvm.passes.placement_rules import sliced_axes
from decnn_tvm.passes.weights import is_call, static_shape
from decnn_tvm.plan import Placement, Sharded, Strips

_RESHAPES = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")


def is_renaming(call: relax.Call, operand: Placement | None) -> bool:
    """Tell whether `call` on an operand placed so leaves the local tensor as it is."""
    if not isinstance(operand, Sharded):
        return False
    if is_call(call, "relax.take"):
        return True
    if not is_call(call, "relax.strided_slice"):
        return False
    return operand.axis in sliced_axes(call)


def localize(
    call: relax.Call,
    args: list[relax.Expr],
    operand: Placement | None,
    local_shape: tuple[int, ...],
    builder: relax.BlockBuilder,
    group_count: int,
) -> relax.Expr:
    """Return `call` on local operands.

    Parameters
    ----------
    call : relax.Call
        The operator on whole tensors.
    args : list of relax.Expr
        Its arguments on this device.
    operand : Placement or None
        The placement of the first argument.
    local_shape : tuple of int
        The shape of the local result.
    builder : relax.BlockBuilder
        Takes what must be emitted before the operator.
    group_count : int
        Channel groups on the device.
    """
    if isinstance(operand, Strips) and isinstance(call.op, tvm.ir.Op):
        on_strip = localize_strip(call, args, local_shape, builder)
        if on_strip is not None:
            return on_strip
    if is_call(call, "relax.nn.conv2d") and int(call.attrs.groups) > 1:
        return _group_convolution(call, args, operand)
    if isinstance(call.op, tvm.ir.Op) and call.op.name in _RESHAPES:
        return _reshape(call, args[0], operand, local_shape, builder)
    if is_call(call, "relax.concat") and group_count > 1 and isinstance(operand, Sharded):
        if int(call.attrs.axis) % len(local_shape) == operand.axis:
            return _concat_by_group(args[0].fields, operand.axis, builder, group_count)
    return same_call(call, args)


def same_call(call: relax.Call, args: list[relax.Expr]) -> relax.Call:
    """Return `call` on other arguments."""
    if is_call(call, "relax.take"):  # its default mode warns of indices out of bounds
        return relax.op.take(*args, axis=call.attrs.axis, mode="clip")
    return relax.Call(call.op, args, call.attrs, call.ty_args)


def _concat_by_group(
    tensors: list[relax.Expr], axis: int, builder: relax.BlockBuilder, group_count: int
) -> relax.Expr:
    """Concatenate group by group, so that all channels of one group stay together."""
    pieces = []
    for group in range(group_count):
        for tensor in tensors:
            extent = static_shape(tensor)[axis] // group_count
            bounds = [group * extent], [(group + 1) * extent]
            piece = relax.op.strided_slice(tensor, [axis], *bounds, assume_inbound=True)
            pieces.append(builder.emit(piece))
    return relax.op.concat(pieces, axis=axis)


def _group_convolution(
    call: relax.Call, args: list[relax.Expr], operand: Placement | None
) -> relax.Expr:
    groups = int(call.attrs.groups)
    if isinstance(operand, Sharded):
        groups = static_shape(args[0])[1] // static_shape(args[1])[1]
    return convolve(args[0], args[1], call, groups)


def _reshape(
    call: relax.Call,
    data: relax.Expr,
    operand: Placement | None,
    local_shape: tuple[int, ...],
    builder: relax.BlockBuilder,
) -> relax.Expr:
    """Reshape; where channels are flattened to features they come first (see `flattened`)."""
    if isinstance(operand, Sharded | Strips) and operand.axis != 1 and len(local_shape) == 2:
        others = [a for a in range(1, len(data.ty.shape)) if a != operand.axis]
        data = builder.emit(relax.op.permute_dims(data, [0, operand.axis, *others]))
    return relax.op.reshape(data, local_shape)
