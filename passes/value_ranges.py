# SPDX-License-Identifier: Apache-2.0
"""Which values can't be negative, by the operators that they come from."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

_GIVE = frozenset(
    f"relax.{name}" for name in "nn.relu nn.relu6 nn.softmax sigmoid abs exp square sqrt".split()
)
_KEEP_ONE = frozenset(
    f"relax.{name}"
    for name in (
        "reshape permute_dims squeeze expand_dims flatten take strided_slice mean max min sum "
        "nn.max_pool2d nn.avg_pool2d nn.adaptive_avg_pool2d nn.dropout astype"
    ).split()
)
_KEEP_ALL = frozenset(f"relax.{name}" for name in ("add", "multiply", "minimum", "concat"))


def is_non_negative(expr: relax.Expr, bound: Mapping[relax.Var, relax.Expr]) -> bool:
    """Tell whether no element of `expr` is below zero, whatever the inputs.

    Parameters
    ----------
    expr : relax.Expr
        A tensor, or a tuple of them.
    bound : mapping
        What the variables of the function are bound to; one that is not there may be negative.
    """
    if isinstance(expr, relax.Tuple):
        return all(is_non_negative(field, bound) for field in expr.fields)
    if isinstance(expr, relax.Var):
        return expr in bound and is_non_negative(bound[expr], bound)
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return False
    name = expr.op.name
    if name == "relax.clip":
        return float(expr.args[1].value) >= 0
    if name == "relax.call_pure_packed":  # the marker of a movement, whose name comes first
        return is_non_negative(expr.args[1], bound)
    if name in _KEEP_ONE:
        return is_non_negative(expr.args[0], bound)
    return name in _GIVE or (
        name in _KEEP_ALL and all(is_non_negative(arg, bound) for arg in expr.args)
    )
