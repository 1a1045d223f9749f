# SPDX-License-Identifier: Apache-2.0
"""Named weights of a Relax function, readable and replaceable by every pass.

The form is TVM's own (``from_onnx(..., keep_params_in_input=True)``, ``from_exported_program(...,
keep_params_as_input=True)``): the first ``num_input`` parameters of a function are its data inputs,
the others its weights, whose values stand in the function attribute ``params`` in the same order.
The name of a weight is the name of its `Var`.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

Array = npt.NDArray[Any]


def has_weights(func: relax.Function) -> bool:
    """Tell whether `func` carries its weights as named parameters."""
    return func.attrs is not None and "params" in func.attrs and "num_input" in func.attrs


def inputs_of(func: relax.Function) -> list[relax.Var]:
    """Return the data inputs of `func`, without its weights."""
    return (
        list(func.params)[: int(func.attrs["num_input"])]
        if has_weights(func)
        else list(func.params)
    )


def weight_vars(func: relax.Function) -> list[relax.Var]:
    """Return the weight parameters of `func`."""
    return list(func.params)[int(func.attrs["num_input"]) :] if has_weights(func) else []


def weight_values(func: relax.Function) -> dict[str, Array]:
    """Return the weights of `func` by name."""
    if not has_weights(func):
        return {}
    pairs = zip(weight_vars(func), func.attrs["params"], strict=True)
    return {var.name: value.numpy() for var, value in pairs}


def with_weights(
    func: relax.Function, inputs: list[relax.Var], weights: Mapping[relax.Var, Array]
) -> relax.Function:
    """Return `func` with these data inputs and these weights; its body must use the same Vars."""
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(value)) for value in weights.values()]
    params = [*inputs, *weights]
    func = relax.Function(params, func.body, func.ret_ty, func.is_pure, func.attrs)
    return func.with_attr("num_input", len(inputs)).with_attr("params", tensors)


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """Return the static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape)


class WeightTable:
    """The weights of a function while a pass rewrites it.

    Parameters
    ----------
    func : relax.Function
        A function with named weights.
    """

    def __init__(self, func: relax.Function) -> None:
        values = weight_values(func)
        self.values: dict[relax.Var, Array] = {v: values[v.name] for v in weight_vars(func)}

    def value(self, expr: relax.Expr) -> Array | None:
        """Return the value of a weight or constant, None for anything else."""
        if isinstance(expr, tvm.ir.GenericConst):
            constant: Array = expr.value.numpy()
            return constant
        return self.values.get(expr) if isinstance(expr, relax.Var) else None

    def add(self, name: str, value: Array) -> relax.Var:
        """Add a weight; `rebuild` gives it the name itself once the old bearer is gone."""
        var = weight_var(name, value)
        self.values[var] = value
        return var

    def rebuild(self, func: relax.Function, body: relax.Expr) -> relax.Function:
        """Return `func` with `body` and the weights that it reads, under unique names."""
        inputs = inputs_of(func)
        bare = relax.Function(inputs, body, func.ret_ty, func.is_pure, func.attrs)
        used = set(relax.analysis.free_vars(bare))
        kept: dict[relax.Var, Array] = {}
        renaming = _VarRenamer()
        for var, value in self.values.items():
            if var in used:
                name = unique_name(var.name, {v.name for v in kept})
                fresh = var if name == var.name else weight_var(name, value)
                renaming.set_var_remap(var, fresh)
                kept[fresh] = value
        bare = relax.Function(
            inputs, renaming.visit_expr(body), func.ret_ty, func.is_pure, func.attrs
        )
        return with_weights(bare, inputs, kept)


@mutator
class _VarRenamer(PyExprMutator):  # type: ignore[misc]
    """Replaces the variables given to `set_var_remap`."""


def unique_name(name: str, taken: Container[str]) -> str:
    """Return `name`, with a numbered suffix where it is taken."""
    candidates = itertools.chain((name,), (f"{name}.{i}" for i in itertools.count(1)))
    return next(candidate for candidate in candidates if candidate not in taken)


def is_call(expr: relax.Expr | None, name: str) -> TypeGuard[relax.Call]:
    """Tell whether `expr` calls the operator `name`."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == name


def weight_var(name: str, value: Array) -> relax.Var:
    """Return a fresh weight parameter with the shape and dtype of `value`."""
    return relax.Var(name, relax.TensorType(value.shape, str(value.dtype)))
