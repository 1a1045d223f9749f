# SPDX-License-Identifier: Apache-2.0
"""Evaluate operators that read nothing but weights.

``matmul(x, permute_dims(w))`` becomes ``matmul(x, w)`` with the transposed value under the same
name, ``add(y, reshape(b, (1, C, 1, 1)))`` becomes ``add(y, b)``. A weight that is also read as it
was keeps its value and the folded one gets a suffix. Exact.

Runs on named weights (`LiftWeights`); `FoldBatchNorm` and `PropagatePlacement` want it before them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.weights import (
    Array,
    WeightTable,
    static_shape,
)

_EVALUATE: dict[str, Callable[[relax.Call, list[Array]], Array]] = {
    "relax.permute_dims": lambda call, v: np.transpose(
        v[0], None if call.attrs.axes is None else [int(a) for a in call.attrs.axes]
    ),
    "relax.add": lambda _, v: v[0] + v[1],
    "relax.subtract": lambda _, v: v[0] - v[1],
    "relax.multiply": lambda _, v: v[0] * v[1],
    "relax.divide": lambda _, v: v[0] / v[1],
    "relax.negative": lambda _, v: -v[0],
    "relax.sqrt": lambda _, v: np.sqrt(v[0]),
    "relax.broadcast_to": lambda call, v: np.broadcast_to(v[0], static_shape(call)),
    "relax.astype": lambda call, v: v[0].astype(str(call.ty.dtype)),
} | {
    name: lambda call, v: v[0].reshape(static_shape(call))
    for name in ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")
}


@tvm.transform.module_pass(opt_level=0, name="decnn.FoldWeightTransforms")
class FoldWeightTransforms:
    """Evaluate operators that read nothing but weights."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        result = LiftWeights()(mod)  # type: ignore[operator]
        for var, func in result.functions_items():
            if isinstance(func, relax.Function):
                table = WeightTable(func)
                result.update_func(var, table.rebuild(func, _Folder(table).visit_expr(func.body)))
        return result


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    def __init__(self, table: WeightTable) -> None:
        super().__init__()
        self.table = table

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Bind the variable of a folded call to the weight that replaces it."""
        folded = self._fold(binding.value)
        if folded is None:
            super().visit_var_binding_(binding)
        else:
            self.set_var_remap(binding.var, folded)

    def _fold(self, expr: relax.Expr) -> relax.Var | None:
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
            return None
        evaluate = _EVALUATE.get(expr.op.name)
        tensors = [self.visit_expr(a) for a in expr.args if isinstance(a.ty, relax.TensorType)]
        values = [self.table.value(tensor) for tensor in tensors]
        if evaluate is None or not tensors or any(value is None for value in values):
            return None
        source = next((t for t in tensors if t in self.table.values), None)
        if source is None:
            return None
        value = evaluate(expr, [v for v in values if v is not None])
        return self.table.add(source.name, value)
