# SPDX-License-Identifier: Apache-2.0
"""Small modules for tests: weights for TVMScript, networks from a few lines, NumPy runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from decnn_tvm.passes.weights import inputs_of, weight_values

Array = npt.NDArray[Any]
Build = Callable[..., Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    """Return normal deviates, float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def with_values(mod: tvm.IRModule, *values: Array, inputs: int = 1) -> tvm.IRModule:
    """Give ``main`` of a TVMScript module the values of its weights."""
    tensors = [tvm.runtime.tensor(value) for value in values]
    func = mod["main"].with_attr("num_input", inputs).with_attr("params", tensors)
    result = mod.clone()
    result.update_func(result.get_global_var("main"), func)
    return result


def network(
    body: Build,
    *shapes: tuple[int, ...],
    weights: dict[str, Array] | None = None,
    attrs: dict[str, Any] | None = None,
) -> tvm.IRModule:
    """Return ``main(x, y..., weights)``: ``body(emit, *inputs, **weights)`` gives its outputs."""
    weights = weights or {}
    builder = relax.BlockBuilder()
    inputs = [
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in zip("xyz", shapes, strict=False)
    ]
    variables = {
        name: relax.Var(name, relax.TensorType(value.shape, str(value.dtype)))
        for name, value in weights.items()
    }
    with builder.function("main", [*inputs, *variables.values()], attrs=attrs or {}):
        with builder.dataflow():
            result = body(builder.emit, *inputs, **variables)
            if isinstance(result, Sequence):
                result = relax.Tuple(list(result))
            out = builder.emit_output(result)
        builder.emit_func_output(out)
    return with_values(builder.get(), *weights.values(), inputs=len(shapes))


def run(mod: tvm.IRModule, *inputs: Array) -> list[Array]:
    """Compile ``main`` by `tvm.compile` and run it on `inputs` and its own weights."""
    func = mod["main"]
    assert len(inputs_of(func)) == len(inputs)
    values = [*inputs, *weight_values(func).values()]
    bare = tvm.IRModule({"main": func.without_attr("params")} if func.attrs else {"main": func})
    target = tvm.target.Target({"kind": "llvm", "num-cores": 1, "opt-level": 1})
    machine = relax.VirtualMachine(tvm.compile(bare, target=target), tvm.cpu())
    result = machine["main"](*map(tvm.runtime.tensor, values))
    return [t.numpy() for t in ([result] if hasattr(result, "numpy") else result)]


def assert_close(ours: Array, reference: Array, tolerance: float = 1e-5) -> None:
    """Assert equality up to `tolerance` of the reference's largest magnitude."""
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= tolerance * np.abs(reference).max()
