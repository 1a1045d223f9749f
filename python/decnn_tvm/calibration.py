# SPDX-License-Identifier: Apache-2.0
"""The range of every exchanged channel, from samples: what int8 on the wire is scaled by.

The network runs on each sample, whole and in float32, on this machine. A histogram of magnitudes is
kept of every channel that an exchange will round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from decnn_tvm.channel_histogram import METHODS, ChannelHistogram, Method
from decnn_tvm.errors import CompileError, InputError
from decnn_tvm.lowering import build_stages
from decnn_tvm.passes.localize import same_call
from decnn_tvm.passes.placement_inference import arguments, with_arguments
from decnn_tvm.passes.stage_graph import StageGraph, is_movement
from decnn_tvm.passes.weights import inputs_of, static_shape, weight_values, weight_vars
from decnn_tvm.passes.wire_encoding import LEVELS, WireLimits
from decnn_tvm.targets import resolve_target

Array: TypeAlias = npt.NDArray[Any]
Sample: TypeAlias = "Array | Mapping[str, Array]"


def calibrate(
    spread: tvm.IRModule, samples: Iterable[Sample], method: Method = "headroom"
) -> WireLimits:
    """Return the limits of every channel that an exchange in int8 will round.

    Parameters
    ----------
    spread : IRModule
        What `decnn_tvm.pipeline.spreading_passes` gave.
    samples : iterable of arrays, or of mappings from input names to arrays
        Inputs like those to come; some dozens will do.
    method : {"headroom", "max", "percentile", "mse"}
        How a limit is chosen; see `decnn_tvm.channel_histogram`.

    Raises
    ------
    InputError
        No sample, or one of the wrong names, shape or dtype.
    CompileError
        An unknown method.
    """
    if method not in METHODS:
        raise CompileError(f"calibration method {method!r}; expected one of {list(METHODS)}.")
    graph = StageGraph(spread["main"], "int8")
    exchanged = rounded_values(graph)
    names = [var.name for var in inputs_of(graph.func)]
    histograms = {
        var.name: ChannelHistogram(static_shape(var)[axis]) for var, (axis, _) in exchanged.items()
    }
    count = 0
    run = _observer(graph, list(exchanged))
    for count, sample in enumerate(samples, start=1):
        inputs = _checked(graph, sample, names, count)
        for (var, (axis, _)), value in zip(exchanged.items(), run(inputs), strict=True):
            magnitudes = np.abs(np.moveaxis(value, axis, 0)).reshape(value.shape[axis], -1)
            if not np.isfinite(magnitudes).all():
                raise InputError(
                    f"calibration sample {count}: the network computes NaN or infinity from it."
                )
            histograms[var.name].add(magnitudes)
    if not count:
        raise InputError("calibration: no samples. Pass some inputs like those to come.")
    return {
        var.name: histograms[var.name].limits(method, LEVELS[dtype])
        for var, (_, dtype) in exchanged.items()
    }


def unit_limits(spread: tvm.IRModule) -> WireLimits:
    """Return limits of 1: they give the code, if not the weights, of a calibrated network."""
    exchanged = rounded_values(StageGraph(spread["main"], "int8"))
    return {
        var.name: np.ones(static_shape(var)[axis], "float32")
        for var, (axis, _) in exchanged.items()
    }


def rounded_values(graph: StageGraph) -> dict[relax.Var, tuple[int, str]]:
    """Return the values that can travel as integers, with the axis of their scales and the type."""
    found = {}
    for target, source in graph.movements().items():
        integers = None if graph.moved_on(source) else graph.integers(target)
        if integers is not None:
            found[source] = integers
    return found


def _observer(
    graph: StageGraph, observed: list[relax.Var]
) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Compile the whole network for this machine; return what computes `observed` of an input."""
    if not observed:
        return lambda inputs: []
    machine = relax.VirtualMachine(
        build_stages(_observing_module(graph, observed), resolve_target("host").target), tvm.cpu()
    )
    weights = [tvm.runtime.tensor(value) for value in weight_values(graph.func).values()]
    packed = machine["main_transform_params"](weights)

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        tensors = (tvm.runtime.tensor(inputs[var.name]) for var in inputs_of(graph.func))
        return [tensor.numpy() for tensor in machine["main"](*tensors, *packed)]

    return run


def _observing_module(graph: StageGraph, observed: list[relax.Var]) -> tvm.IRModule:
    """Return the network without its movements, giving the tuple of `observed`."""
    inputs, weights = inputs_of(graph.func), weight_vars(graph.func)
    new: dict[relax.Expr, relax.Expr] = {var: var for var in inputs}
    builder = relax.BlockBuilder()
    with builder.function("main", [*inputs, *weights], attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            for var, value in graph.bound.items():
                if is_movement(value):
                    new[var] = new[value.args[1]]
                elif isinstance(value, relax.TupleGetItem):
                    new[var] = builder.emit(relax.TupleGetItem(new[value.tuple_value], value.index))
                elif isinstance(value, relax.Call):
                    args = with_arguments(value, [new.get(a, a) for a in arguments(value)])
                    new[var] = builder.emit(same_call(value, args))
            result = builder.emit_output(relax.Tuple([new[var] for var in observed]))
        builder.emit_func_output(result)
    module = builder.finalize()
    return relax.transform.DeadCodeElimination(["main"])(module)


def _checked(
    graph: StageGraph, sample: Sample, names: list[str], index: int
) -> Mapping[str, Array]:
    """Return the arrays of one sample by input name."""
    given = sample if isinstance(sample, Mapping) else {names[0]: sample}
    if sorted(given) != sorted(names):
        raise InputError(
            f"calibration sample {index}: inputs {sorted(given)}; expected {sorted(names)}."
        )
    for var in inputs_of(graph.func):
        array, shape = given[var.name], static_shape(var)
        if not isinstance(array, np.ndarray) or (array.shape, str(array.dtype)) != (
            shape,
            str(var.ty.dtype),
        ):
            raise InputError(
                f"calibration sample {index}: input {var.name!r} is "
                f"{getattr(array, 'dtype', type(array).__name__)}{getattr(array, 'shape', '')}; "
                f"expected {var.ty.dtype}{shape}."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"calibration sample {index}: {var.name!r} holds NaN or infinity.")
    return given
