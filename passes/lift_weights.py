# SPDX-License-Identifier: Apache-2.0
"""Turn floating-point constants into named weight parameters.

``f(x) { conv2d(x, const) }`` becomes ``f(x, conv2d_weight) { conv2d(x, conv2d_weight) }`` with the
value in the function attribute ``params``. Functions that carry their weights so already (what
TVM's importers give with ``keep_params_in_input=True``) are left as they are, names included; a
constant that is left there gets a name from its use. Scalars and integer constants stay.

Exact. May run at any time; every pass of decnn_tvm that reads weights runs it by itself.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    weight_values,
    weight_var,
    weight_vars,
    with_weights,
)

_ROLES = {"nn.conv2d": ("", "weight"), "matmul": ("", "weight"), "add": ("bias", "bias")}


@tvm.transform.module_pass(opt_level=0, name="decnn.LiftWeights")
class LiftWeights:
    """Turn floating-point constants of ``main``-like Relax functions into named weights."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                result.update_func(var, _lift(func))
        return result


def _lift(func: relax.Function) -> relax.Function:
    lifter = _Lifter(weight_vars(func), weight_values(func))
    body = lifter.visit_expr(func.body)
    if not lifter.lifted:
        return func
    func = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
    return with_weights(func, inputs_of(func), lifter.weights)


@mutator
class _Lifter(PyExprMutator):  # type: ignore[misc]
    def __init__(self, variables: list[relax.Var], values: dict[str, Array]) -> None:
        super().__init__()
        self.weights: dict[relax.Var, Array] = {var: values[var.name] for var in variables}
        self.lifted = False

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Replace the constants among the arguments."""
        if not isinstance(call.op, tvm.ir.Op):
            return self.visit_expr_post_order(call)
        args = [self._lift(call, i, arg) for i, arg in enumerate(call.args)]
        return self.visit_expr_post_order(
            relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
        )

    def _lift(self, call: relax.Call, position: int, arg: relax.Expr) -> relax.Expr:
        if not isinstance(arg, tvm.ir.GenericConst):
            return arg
        value = arg.value.numpy()
        if value.ndim == 0 or value.dtype.kind != "f":
            return arg
        self.lifted = True
        name = call.op.name.removeprefix("relax.")
        role = _ROLES.get(name, ())[position : position + 1] or (f"arg{position}",)
        var = weight_var(self._unique(f"{name.split('.')[-1]}_{role[0]}"), value)
        self.weights[var] = value
        return var

    def _unique(self, stem: str) -> str:
        taken = {var.name for var in self.weights}
        names = (stem if i == 0 else f"{stem}_{i}" for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)
