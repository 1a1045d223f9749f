# SPDX-License-Identifier: Apache-2.0
"""Lower ``relax.nn.conv2d`` to direct, Winograd or depthwise convolutions."""

from __future__ import annotations

from functools import partial
from typing import Any

import tvm
from tvm import relax, topi

from decnn_tvm.schedules.depthwise_convolution import depthwise_convolution, depthwise_problem
from decnn_tvm.schedules.direct_convolution import direct_convolution
from decnn_tvm.schedules.register_tiles import TileProblem, choose_tile, convolution_problem
from decnn_tvm.schedules.vectors import round_lanes, vector_lanes, vector_registers
from decnn_tvm.schedules.winograd_choice import WinogradPlan, choose_winograd
from decnn_tvm.schedules.winograd_convolution import winograd_convolution
from decnn_tvm.schedules.winograd_transforms import KERNEL, transform_weight

# The number of an "out-elementwise-fusable" function in TVM's fusion: it takes an epilogue.
TAKES_EPILOGUE = 4


def lower_convolution(
    builder: relax.BlockBuilder, call: relax.Call, *, winograd: bool = False
) -> relax.Expr:
    """Return the lowering of the convolution `call`, by Winograd's method if allowed and faster."""
    data, weight = call.args
    attrs = call.attrs
    if not _is_channel_first(attrs.data_layout) or data.ty.dtype != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    if _is_depthwise(call):
        return _lower_depthwise(builder, call)
    out_block = _block(call.ty.shape)
    groups = int(attrs.groups)
    plan = _winograd_plan(call) if winograd else None
    if plan is not None:
        return _lower_winograd(builder, call, plan)
    weight, lanes = _whole_vectors(builder, weight, groups, out_block)
    channels = int(call.ty.shape[1]) * out_block
    kernel = partial(
        direct_convolution,
        **_geometry(attrs),
        groups=groups,
        out_block=out_block,
        out_channels=channels,
        tile=choose_tile(_problem(call, weight, lanes)),
    )
    return builder.call_te(
        kernel,
        data,
        weight,
        primfunc_name_hint="conv2d",
        primfunc_attrs={"op_pattern": TAKES_EPILOGUE},
    )


def lower_convolution_1d(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return a 1-D convolution as the 2-D one of an image with a single row."""
    data, weight = call.args
    attrs = call.attrs
    if (attrs.data_layout, attrs.kernel_layout) != ("NCW", "OIW"):
        return call.op.get_attr("FLegalize")(builder, call)
    first, last = (int(attrs.padding[at]) for at in (0, -1))
    image = relax.op.nn.conv2d(
        builder.emit(relax.op.expand_dims(data, 2)),
        builder.emit(relax.op.expand_dims(weight, 2)),
        strides=(1, int(attrs.strides[0])),
        padding=(0, first, 0, last),
        dilation=(1, int(attrs.dilation[0])),
        groups=int(attrs.groups),
    )
    return relax.op.squeeze(builder.emit(image), [2])


def lower_transposed_convolution(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return a transposed convolution as a plain one.

    It reads the input with ``stride - 1`` zeros between pixels and the kernel turned by half a
    turn, inputs and outputs swapped: ``s**2`` times the arithmetic, but on the fast path.
    """
    data, weight = call.args
    attrs, geometry = call.attrs, _geometry(call.attrs)
    channels, outputs, *window = (int(extent) for extent in weight.ty.shape)
    reach = [d * (k - 1) for d, k in zip(geometry["dilation"], window, strict=True)]
    extra = [int(value) for value in attrs.output_padding]
    top, left, bottom, right = geometry["padding"]
    padding = [reach[0] - top, reach[1] - left]
    padding += [reach[0] - bottom + extra[0], reach[1] - right + extra[1]]
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
    if layouts != ("NCHW", "IOHW", "NCHW") or min(padding) < 0:
        return call.op.get_attr("FLegalize")(builder, call)
    groups = int(attrs.groups)
    parts = relax.op.reshape(weight, (groups, channels // groups, outputs, *window))
    swapped = builder.emit(relax.op.permute_dims(builder.emit(parts), [0, 2, 1, 3, 4]))
    kernel = builder.emit(
        relax.op.reshape(swapped, (groups * outputs, channels // groups, *window))
    )
    for axis in (2, 3):
        kernel = builder.emit(relax.op.flip(kernel, axis))
    spread = builder.call_te(topi.nn.dilate, data, [1, 1, *geometry["strides"]])
    return relax.op.nn.conv2d(
        builder.emit(spread),
        kernel,
        padding=padding,
        dilation=geometry["dilation"],
        groups=groups,
    )


def _lower_depthwise(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    data, weight = call.args
    block = _block(call.ty.shape)
    lanes = round_lanes(block, _lanes())
    shape = [int(extent) for extent in weight.ty.shape]
    flat = builder.emit(relax.op.reshape(weight, (shape[0], *shape[2:4], block)))
    target = tvm.target.Target.current(allow_none=False)
    height, width = int(call.ty.shape[2]), int(call.ty.shape[3])
    problem = depthwise_problem(height, width, (shape[2], shape[3]), target)
    kernel = partial(depthwise_convolution, **_geometry(call.attrs), tile=choose_tile(problem))
    return builder.call_te(
        kernel,
        data,
        pad_axis(builder, flat, -1, lanes),
        primfunc_name_hint="depthwise_conv2d",
        primfunc_attrs={"op_pattern": TAKES_EPILOGUE},
    )


def _winograd_plan(call: relax.Call) -> WinogradPlan | None:
    """Return the plan for a convolution that Winograd's method can compute, if it pays."""
    weight = [int(extent) for extent in call.args[1].ty.shape]
    geometry = _geometry(call.attrs)
    plain = geometry["strides"] == geometry["dilation"] == [1, 1]
    if len(weight) != 6 or weight[2:4] != [KERNEL, KERNEL] or not plain:
        return None
    _, chunks, _, _, in_block, out_block = weight
    if in_block % _lanes() or out_block % _lanes():
        return None
    outputs = int(call.ty.shape[1]) * out_block // int(call.attrs.groups)
    return choose_winograd(
        _problem(call, call.args[1], out_block), chunks * in_block, outputs, _lanes()
    )


def _lower_winograd(
    builder: relax.BlockBuilder, call: relax.Call, plan: WinogradPlan
) -> relax.Expr:
    data, weight = call.args
    packed = builder.emit_te(transform_weight, weight, primfunc_name_hint="winograd_weight")
    kernel = partial(
        winograd_convolution,
        padding=_geometry(call.attrs)["padding"],
        groups=int(call.attrs.groups),
        tile=plan.tile,
        band=plan.band,
    )
    return builder.call_te(
        kernel,
        data,
        packed,
        primfunc_name_hint="conv2d_winograd",
        primfunc_attrs={"op_pattern": TAKES_EPILOGUE},
    )


def _problem(call: relax.Call, weight: relax.Expr, lanes: int) -> TileProblem:
    blocks, chunks, kh, kw, *inner, _ = (int(extent) for extent in weight.ty.shape)
    data = [int(extent) for extent in call.args[0].ty.shape]
    return convolution_problem(
        pixels=(int(call.ty.shape[2]), int(call.ty.shape[3])),
        blocks=blocks // int(call.attrs.groups),
        lanes=lanes,
        steps=chunks * kh * kw * (inner[0] if inner else 1),
        source=chunks * data[2] * data[3] * (inner[0] if inner else 1),
        copied=any(int(value) for value in call.attrs.padding),
        vector_lanes=_lanes(),
        registers=_registers(),
        chunks=chunks,
    )


def _whole_vectors(
    builder: relax.BlockBuilder, weight: relax.Expr, groups: int, out_block: int
) -> tuple[relax.Expr, int]:
    """Return the weights with the output channels of every block (or group) padded to vectors."""
    shape = [int(extent) for extent in weight.ty.shape]
    if out_block > 1:
        lanes = round_lanes(out_block, _lanes())
        return pad_axis(builder, weight, -1, lanes), lanes
    size = shape[0] // groups
    lanes = round_lanes(min(size, _lanes()), _lanes())
    blocks = -(-size // lanes)
    parts = builder.emit(relax.op.reshape(weight, (groups, size, *shape[1:])))
    padded = pad_axis(builder, parts, 1, blocks * lanes)
    split = builder.emit(relax.op.reshape(padded, (groups * blocks, lanes, *shape[1:])))
    order = [0, *range(2, len(shape) + 1), 1]
    return builder.emit(relax.op.permute_dims(split, order)), lanes


def pad_axis(builder: relax.BlockBuilder, value: relax.Expr, axis: int, size: int) -> relax.Expr:
    """Return `value` with zeros appended along `axis` up to `size`."""
    shape = [int(extent) for extent in value.ty.shape]
    if shape[axis] == size:
        return value
    widths = [0] * (2 * len(shape))
    widths[2 * (axis % len(shape)) + 1] = size - shape[axis]
    return builder.emit(relax.op.nn.pad(value, widths))


def _geometry(attrs: Any) -> dict[str, list[int]]:
    names = ("strides", "padding", "dilation")
    return {name: [int(value) for value in attrs[name]] for name in names}


def _is_depthwise(call: relax.Call) -> bool:
    weight = [int(extent) for extent in call.args[1].ty.shape]
    block = _block(call.ty.shape)
    channels = int(call.ty.shape[1]) * block
    return block > 1 and weight[1] == 1 and int(call.attrs.groups) == channels and len(weight) == 5


def _is_channel_first(layout: str) -> bool:
    return layout.startswith("NCHW") and layout[4:] in ("", *(f"{i}c" for i in range(2, 65)))


def _block(shape: Any) -> int:
    return int(shape[4]) if len(shape) == 5 else 1


def _lanes() -> int:
    return vector_lanes(tvm.target.Target.current(allow_none=False))


def _registers() -> int:
    return vector_registers(tvm.target.Target.current(allow_none=False))
