# SPDX-License-Identifier: Apache-2.0
"""Fold batch norms into the convolutions before them.

With ``s = gamma / sqrt(var + epsilon)``: ``batch_norm(conv(x, w) + b)`` is
``conv(x, w * s) + ((b - mean) * s + beta)``. A batch norm after anything else, or after a
convolution whose output is read elsewhere too, becomes ``x * s + (beta - mean * s)``. Exact but for
rounding. One in training mode, or with computed statistics, stays. The folded weight keeps its
name; the bias takes that of ``beta``.

Runs on named weights after `FoldWeightTransforms`, and after all training and decoupling.
"""

from __future__ import annotations

import logging

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.passes.fold_weight_transforms import FoldWeightTransforms
from decnn_tvm.passes.weights import Array, WeightTable, is_call

logger = logging.getLogger(__name__)


@tvm.transform.module_pass(opt_level=0, name="decnn.FoldBatchNorm")
class FoldBatchNorm:
    """Fold batch norms into the convolutions before them."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        result = FoldWeightTransforms()(mod)  # type: ignore[operator]
        for var, func in result.functions_items():
            if isinstance(func, relax.Function):
                table = WeightTable(func)
                body = _Folder(func, table).visit_expr(func.body)
                body = relax.analysis.remove_all_unused(
                    relax.Function(func.params, body, func.ret_ty, func.is_pure)
                ).body
                result.update_func(var, table.rebuild(func, body))
        return result


@mutator
class _Folder(PyExprMutator):  # type: ignore[misc]
    def __init__(self, func: relax.Function, table: WeightTable) -> None:
        super().__init__()
        self.table = table
        self.uses = {
            var: len(users)
            for block in func.body.blocks
            for var, users in relax.analysis.udchain(block).items()
        }
        self.bound = relax.analysis.get_var2val(func)

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        """Replace the normalised tensor; running statistics are dead in inference."""
        norm = self.bound.get(item.tuple_value)
        if item.index != 0 or not is_call(norm, "relax.nn.batch_norm"):
            return super().visit_tuple_getitem_(item)
        known = [v for v in map(self.table.value, norm.args[1:]) if v is not None]
        if len(known) != 4 or norm.attrs.training:
            logger.debug("batch norm %s stays: it computes its statistics", norm.args[2].name)
            return super().visit_tuple_getitem_(item)
        gamma, beta, mean, variance = known
        scale = gamma / np.sqrt(variance + np.float32(norm.attrs.epsilon))
        axis = int(norm.attrs.axis) % len(norm.args[0].ty.shape)
        return self._fold(norm, scale, mean, beta, axis)

    def _fold(
        self, norm: relax.Call, scale: Array, mean: Array, beta: Array, axis: int
    ) -> relax.Expr:
        shape = [1] * len(norm.args[0].ty.shape)
        shape[axis] = -1
        name = norm.args[2].name
        conv, bias = self._convolution_before(norm.args[0])
        if conv is None or axis != 1:
            scale_var = self.table.add(norm.args[1].name, scale.reshape(shape))
            shift_var = self.table.add(name, (beta - mean * scale).reshape(shape))
            scaled = self.builder_.emit(relax.op.multiply(self.visit_expr(norm.args[0]), scale_var))
            return relax.op.add(scaled, shift_var)
        weight = self.table.value(conv.args[1]) * scale[:, None, None, None]
        folded = relax.Call(
            conv.op,
            [self.visit_expr(conv.args[0]), self.table.add(conv.args[1].name, weight)],
            conv.attrs,
        )
        shift = ((bias - mean) * scale + beta).reshape(shape)
        return relax.op.add(self.builder_.emit(folded), self.table.add(name, shift))

    def _convolution_before(self, var: relax.Expr) -> tuple[relax.Call | None, Array]:
        """Return the convolution that `var` alone reads, and the bias added to it."""
        bias: Array = np.zeros((), "float32")
        call = self._sole(var)
        if is_call(call, "relax.add"):
            value = self.table.value(call.args[1])
            channels = int(call.ty.shape[1])
            if value is None or value.shape[-3:] != (channels, 1, 1):
                return None, bias
            bias = value.reshape(-1)
            call = self._sole(call.args[0])
        if not is_call(call, "relax.nn.conv2d") or self.table.value(call.args[1]) is None:
            return None, bias
        layouts = (call.attrs.data_layout, call.attrs.kernel_layout)
        return (call, bias) if layouts == ("NCHW", "OIHW") else (None, bias)

    def _sole(self, var: relax.Expr) -> relax.Expr | None:
        return self.bound.get(var) if self.uses.get(var) == 1 else None
