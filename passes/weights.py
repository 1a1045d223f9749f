# SPDX-License-Identifier: Apache-2.0
"""Named weights of a Relax function, readable and replaceable by every pass.

The form is TVM's own (``from_onnx(..., keep_params_in_input=True)``, ``from_exported_program(...,
keep_params_as_input=True)``): the first ``num_input`` parameters of a function are its data inputs,
the others its weights, whose values stand in the function attribute ``params`` in the same order.
The name of a weight is the name of its `Var`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

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


def weight_var(name: str, value: Array) -> relax.Var:
    """Return a fresh weight parameter with the shape and dtype of `value`."""
    return relax.Var(name, relax.TensorType(value.shape, str(value.dtype)))
