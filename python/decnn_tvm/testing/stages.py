# SPDX-License-Identifier: Apache-2.0
"""Stage functions for tests, and running them with packed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.runtime.vm import VirtualMachine

from decnn_tvm.lowering import build_stages
from decnn_tvm.runtime.library import PACK_SUFFIX
from decnn_tvm.targets import resolve_target

Array = npt.NDArray[Any]
Body = Callable[..., Any]


def stage_module(
    inputs: Sequence[Array],
    weights: Sequence[Array],
    body: Body,
    *,
    name: str = "stage0",
    attrs: dict[str, Any] | None = None,
) -> tvm.IRModule:
    """Return a module with one stage: `body` maps variables to an expression or a tuple of them."""
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"p{i}", relax.TensorType(value.shape, str(value.dtype)))
        for i, value in enumerate([*inputs, *weights])
    ]
    with builder.function(name, params, attrs={"num_input": len(inputs), **(attrs or {})}):
        with builder.dataflow():
            result = body(builder, *params)
            if isinstance(result, tuple):
                result = relax.Tuple([builder.emit(value) for value in result])
            out = builder.emit_output(result)
        builder.emit_func_output(out)
    return builder.get()


def run_stage(
    mod: tvm.IRModule,
    inputs: Sequence[Array],
    weights: Sequence[Array],
    *,
    name: str = "stage0",
    target: str | Mapping[str, Any] = "host",
    winograd: bool = False,
) -> Any:
    """Build `mod`, pack the weights and run one stage here; give its outputs as arrays."""
    run = load_stage(mod, weights, name=name, target=target, winograd=winograd)
    result = run(*(tvm.runtime.tensor(value) for value in inputs))
    if isinstance(result, tvm.runtime.Tensor):
        return result.numpy()
    return [value.numpy() for value in result]


def load_stage(
    mod: tvm.IRModule,
    weights: Sequence[Array],
    *,
    name: str = "stage0",
    target: str | Mapping[str, Any] = "host",
    winograd: bool = False,
) -> Callable[..., Any]:
    """Build `mod` and pack the weights; return what runs one stage on TVM's tensors."""
    built = build_stages(mod, resolve_target(target).target, winograd=winograd)
    machine = VirtualMachine(built, tvm.cpu())
    packed = machine[name + PACK_SUFFIX]([tvm.runtime.tensor(value) for value in weights])
    run = machine[name]
    return lambda *inputs: run(*inputs, *packed)


def to_blocks(value: Array, block: int) -> Array:
    """Return `value` (N, C, H, W) as (N, C/block, H, W, block); as it is for a block of 1."""
    if block == 1:
        return value
    n, c, h, w = value.shape
    parts = value.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(parts)


def random_array(*shape: int, seed: int = 0) -> Array:
    """Return a float32 array of normal deviates."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
