# SPDX-License-Identifier: Apache-2.0
"""The Relax expressions that change the layout of a tensor."""

from __future__ import annotations

from tvm import relax

from decnn_tvm.passes.weights import static_shape


def block_channels(value: relax.Expr, block: int, *, always: bool = False) -> relax.Expr:
    """Return `value` (N, C, H, W) as (N, C/block, H, W, block).

    A block of 1 gives `value` itself, or with `always` (N, C, H, W, 1).
    """
    if block == 1 and not always:
        return value
    n, c, h, w = static_shape(value)
    if h * w == 1 or block == 1:
        return relax.op.reshape(value, (n, c // block, h, w, block))
    parts = relax.op.reshape(value, (n, c // block, block, h, w))
    return relax.op.permute_dims(parts, [0, 1, 3, 4, 2])


def restore_channels(value: relax.Expr) -> relax.Expr:
    """Return `value` (N, C/b, H, W, b) as (N, C, H, W)."""
    n, c, h, w, block = static_shape(value)
    if h * w > 1:
        value = relax.op.permute_dims(value, [0, 1, 4, 2, 3])
    return relax.op.reshape(value, (n, c * block, h, w))


def block_weight(value: relax.Expr, in_block: int, out_block: int) -> relax.Expr:
    """Return `value` (O, I, KH, KW) as (O/o, I/i, KH, KW, i, o), without a block that is 1."""
    o, i, kh, kw = static_shape(value)
    parts = (o // out_block, out_block, i // in_block, in_block, kh, kw)
    order = [0, 2, 4, 5] + ([3] if in_block > 1 else []) + ([1] if out_block > 1 else [])
    shape = [parts[axis] for axis in order]
    moved = relax.op.permute_dims(relax.op.reshape(value, parts), [*[0, 2, 4, 5], 3, 1])
    return relax.op.reshape(moved, shape)
