# SPDX-License-Identifier: Apache-2.0
"""Bring a freshly imported module into the canonical form of `decnn_tvm.network`.

Scalars and integers among the parameters become constants, arithmetic on constants is evaluated,
``minimum(maximum(x, a), b)`` becomes ``clip(x, a, b)``, transposes and reshapes that undo each
other vanish, and so do parameters and bindings that nothing reads. Exact.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.errors import ModelError
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.weights import (
    inputs_of,
    static_shape,
    weight_values,
    weight_vars,
    with_weights,
)


def canonical(module: tvm.IRModule) -> tvm.IRModule:
    """Return the canonical form of an importer's module; `ModelError` if it has none."""
    _check(module)
    module = _bind_small_parameters(module)
    folding = [relax.transform.FoldConstant(), relax.transform.CanonicalizeBindings()]
    module = tvm.transform.Sequential(folding)(module)
    _check_shapes(module["main"])
    passes = [
        _Simplify(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(["main"]),
    ]
    module = tvm.transform.Sequential(passes)(module)
    _check_shapes(module["main"])
    module = tvm.transform.Sequential([LiftWeights()])(module)
    return _drop_unused_weights(module)


def _check(module: tvm.IRModule) -> None:
    func = module["main"]
    blocks = list(func.body.blocks) if isinstance(func.body, relax.SeqExpr) else []
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        raise ModelError(
            "the network has control flow (If, Loop); export it with the branches resolved"
        )
    for var in inputs_of(func):
        if not all(isinstance(extent, tvm.tirx.IntImm) for extent in var.ty.shape or [None]):
            raise ModelError(f"input {var.name!r} has the dynamic shape {var.ty}; give shapes=")


def _check_shapes(func: relax.Function) -> None:
    if not func.body.blocks:
        raise ModelError(
            "the network computes nothing: its outputs are its inputs or constants; expected at "
            "least one operator that changes its input"
        )
    for binding in func.body.blocks[0].bindings:
        shape = getattr(binding.var.ty, "shape", ()) if _is_tensor(binding.var) else ()
        if shape is None or not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape):
            operator = getattr(getattr(binding.value, "op", None), "name", "an operator")
            raise ModelError(
                f"the result of {operator} has a shape that depends on data, {binding.var.ty}; "
                "expected static shapes: replace that operator, or simplify the model (onnxsim)"
            )


def _is_tensor(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType)


def _bind_small_parameters(module: tvm.IRModule) -> tvm.IRModule:
    """Turn scalar and integer parameters, settings rather than weights, into constants."""
    func = module["main"]
    values = weight_values(func)
    settings = {
        var: relax.const(values[var.name], str(values[var.name].dtype))
        for var in weight_vars(func)
        if values[var.name].ndim == 0 or values[var.name].dtype.kind != "f"
    }
    kept = {var: values[var.name] for var in weight_vars(func) if var not in settings}
    func = func.without_attr("params").bind_params(settings)
    by_name = {var.name: var for var in func.params}
    weights = {by_name[var.name]: value for var, value in kept.items()}
    inputs = [var for var in func.params if var.name not in {w.name for w in kept}]
    result = module.clone()
    result["main"] = with_weights(func, inputs, weights)
    return result


def _drop_unused_weights(module: tvm.IRModule) -> tvm.IRModule:
    func = module["main"]
    used = set(relax.analysis.free_vars(func.body))
    values = weight_values(func)
    weights = {var: values[var.name] for var in weight_vars(func) if var in used}
    result = module.clone()
    result["main"] = with_weights(func, inputs_of(func), weights)
    return result


@tvm.transform.module_pass(opt_level=0, name="decnn.Simplify")
class _Simplify:
    """Recognise clips and cancel transposes."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        result = mod.clone()
        func = mod["main"]
        result["main"] = relax.Function(
            func.params, _Simplifier().visit_expr(func.body), func.ret_ty, func.is_pure, func.attrs
        )
        return result


@mutator
class _Simplifier(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Replace a call by something plainer."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        if call.op.name in ("relax.minimum", "relax.maximum"):
            return self._bounded(call)
        if call.op.name == "relax.clip":
            return self._ordered(call)
        if call.op.name == "relax.permute_dims":
            return self._untransposed(call)
        if call.op.name == "relax.reshape":
            return self._reshaped(call)
        return call

    def _reshaped(self, call: relax.Call) -> relax.Expr:
        """Skip a reshape to the same shape, and the first of two."""
        x = call.args[0]
        if static_shape(x) == tuple(int(extent) for extent in call.args[1]):
            return x
        inner = self.lookup_binding(x) if isinstance(x, relax.Var) else None
        if inner is not None and _is_call(inner, "relax.reshape"):
            return self._reshaped(relax.op.reshape(inner.args[0], call.args[1]))
        return call

    def _bounded(self, call: relax.Call) -> relax.Expr:
        x, bound = _scalar_operand(call)
        if bound is None:
            return call
        if call.op.name == "relax.maximum":
            return relax.op.nn.relu(x) if bound == 0.0 else call
        inner = self.lookup_binding(x) if isinstance(x, relax.Var) else None
        if inner is not None and _is_call(inner, "relax.nn.relu") and bound >= 0.0:
            return relax.op.clip(inner.args[0], 0.0, bound)
        if inner is not None and _is_call(inner, "relax.maximum"):
            y, low = _scalar_operand(inner)
            if low is not None and low <= bound:
                return relax.op.clip(y, low, bound)
        return call

    def _ordered(self, call: relax.Call) -> relax.Expr:
        """Give the upper bound the last word, as ONNX and PyTorch do; in TVM the lower has it."""
        x, low, high = call.args[0], *(float(bound.value) for bound in list(call.args)[1:])
        if low <= high:
            return call
        dtype = str(x.ty.dtype)
        raised = self.builder_.emit(relax.op.maximum(x, relax.const(low, dtype)))
        return relax.op.minimum(raised, relax.const(high, dtype))

    def _untransposed(self, call: relax.Call) -> relax.Expr:
        axes = _axes(call)
        if axes == sorted(axes):
            return call.args[0]
        x = call.args[0]
        inner = self.lookup_binding(x) if isinstance(x, relax.Var) else None
        if inner is None or not _is_call(inner, "relax.permute_dims"):
            return call
        first = _axes(inner)
        joined = [first[axis] for axis in axes]
        source = inner.args[0]
        return source if joined == sorted(joined) else relax.op.permute_dims(source, joined)


def _is_call(expr: relax.Expr, name: str) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == name


def _axes(call: relax.Call) -> list[int]:
    rank = len(call.args[0].ty.shape)
    if call.attrs.axes is None:
        return list(range(rank))[::-1]
    return [int(axis) % rank for axis in call.attrs.axes]


def _scalar_operand(call: relax.Call) -> tuple[relax.Expr, float | None]:
    """Return the tensor and the finite scalar of a commutative binary call."""
    for x, other in (call.args, list(call.args)[::-1]):
        if isinstance(other, tvm.ir.GenericConst) and math.prod(other.value.shape) == 1:
            value = float(other.value.numpy().reshape(()))
            if math.isfinite(value) and len(other.value.shape) <= len(x.ty.shape):
                return x, value
    return call.args[0], None
