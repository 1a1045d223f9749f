# SPDX-License-Identifier: Apache-2.0
"""Write channel shuffles and splits in one form each.

- ``reshape(B, a, b, H, W) -> permute_dims(0, 2, 1, 3, 4) -> reshape(B, C, H, W)``, the channel
  shuffle as exporters write it, becomes ``take(x, indices, axis=1)`` with constant indices.
- ``split(x, ...)[i]`` becomes ``strided_slice``.

Exact. Run it before `PropagatePlacement`, for which both are mere renamings of channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.passes.weights import is_call, static_shape


@tvm.transform.module_pass(opt_level=0, name="decnn.CanonicalizeChannelSelection")
class CanonicalizeChannelSelection:
    """Write channel shuffles as ``take`` and splits as ``strided_slice``."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewritten = _Canonicalizer(func).visit_expr(func)
                result.update_func(var, relax.analysis.remove_all_unused(rewritten))
        return result


@mutator
class _Canonicalizer(PyExprMutator):  # type: ignore[misc]
    def __init__(self, func: relax.Function) -> None:
        super().__init__()
        self.bound = relax.analysis.get_var2val(func)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Replace the last reshape of a channel shuffle."""
        permutation = match_channel_shuffle(call, self.bound)
        if permutation is None:
            return self.visit_expr_post_order(call)
        reshape = self.bound[self.bound[call.args[0]].args[0]]
        indices = relax.const(np.asarray(permutation, "int64"))
        return relax.op.take(self.visit_expr(reshape.args[0]), indices, axis=1)

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        """Replace one result of a split by a slice."""
        split = self.bound.get(item.tuple_value)
        if not is_call(split, "relax.split"):
            return super().visit_tuple_getitem_(item)
        source = split.args[0]
        axis = int(split.attrs.axis) % len(source.ty.shape)
        begin, end = _split_bounds(split, int(source.ty.shape[axis]), axis)[item.index]
        return relax.op.strided_slice(
            self.visit_expr(source), [axis], [begin], [end], assume_inbound=True
        )


def _split_bounds(split: relax.Call, extent: int, axis: int) -> list[tuple[int, int]]:
    ends = np.cumsum([int(field.shape[axis]) for field in split.ty.fields])
    assert int(ends[-1]) == extent
    return [
        (int(end) - int(f.shape[axis]), int(end))
        for f, end in zip(split.ty.fields, ends, strict=True)
    ]


def match_channel_shuffle(
    call: relax.Expr, bound: dict[relax.Var, relax.Expr]
) -> Sequence[int] | None:
    """Return for each output channel of the shuffle that ends in `call` its input channel."""
    if not is_call(call, "relax.reshape"):
        return None
    transpose = bound.get(call.args[0])
    if not is_call(transpose, "relax.permute_dims") or transpose.attrs.axes is None:
        return None
    first = bound.get(transpose.args[0])
    if not is_call(first, "relax.reshape"):
        return None
    source, split = static_shape(first.args[0]), static_shape(first)
    axes = [int(axis) for axis in transpose.attrs.axes]
    if axes != [0, 2, 1, *range(3, len(split))] or static_shape(call) != source:
        return None
    if (split[0], *split[3:]) != (source[0], *source[2:]) or split[1] * split[2] != source[1]:
        return None
    return [int(i) for i in np.arange(source[1]).reshape(split[1:3]).T.reshape(-1)]
