# SPDX-License-Identifier: Apache-2.0
"""Checks of what a user passes to a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from decnn_tvm.errors import InputError
from decnn_tvm.plan import Plan, Value
from decnn_tvm.runtime.tensors import Array

NanPolicy = Literal["raise", "allow"]


def check_policy(nan: str) -> NanPolicy:
    """Return `nan` if it names a policy."""
    if nan == "raise":
        return "raise"
    if nan == "allow":
        return "allow"
    raise InputError(f"nan={nan!r}: expected 'raise' or 'allow'.")


def check_sample(
    plan: Plan, sample: Array | Mapping[str, Array], nan: NanPolicy
) -> dict[str, Array]:
    """Return the inputs of one sample by name, C-contiguous.

    Nothing is cast: an array of another element type is refused, float64 too, so that what is
    computed is what was passed.

    Raises
    ------
    InputError
        A name, shape or dtype differs, or NaN where the policy refuses it.
    """
    if not isinstance(sample, Mapping):
        if len(plan.inputs) != 1:
            raise InputError(
                f"{plan.model!r} has {len(plan.inputs)} inputs; pass a dict with the keys "
                f"{list(plan.inputs)}."
            )
        sample = {plan.inputs[0]: sample}
    if set(sample) != set(plan.inputs):
        raise InputError(
            f"{plan.model!r}: inputs {sorted(map(str, sample))}; expected {sorted(plan.inputs)}."
        )
    return {name: _check(plan.value(name), sample[name], nan) for name in plan.inputs}


def _check(value: Value, array: Array, nan: NanPolicy) -> Array:
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"input {value.name!r}: a {type(array).__name__}; expected a numpy.ndarray of "
            f"{value.dtype} and shape {value.shape}."
        )
    if array.shape != value.shape:
        raise InputError(f"input {value.name!r}: shape {array.shape}; expected {value.shape}.")
    if array.dtype != np.dtype(value.dtype):
        raise InputError(
            f"input {value.name!r}: {array.dtype}; expected {value.dtype}. "
            f"Convert it: x.astype({value.dtype!r})."
        )
    if nan == "raise" and array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(
            f"input {value.name!r}: holds NaN. Clean it, or pass nan='allow' to compute with it."
        )
    return np.ascontiguousarray(array)
