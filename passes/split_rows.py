# SPDX-License-Identifier: Apache-2.0
"""Let the layers beside an exchange run in bands of rows, which leave and arrive one by one.

With an exchange ``m = redistribute(v)``, ``v = relu(conv(u))`` before it and ``w = relu(conv(m))``
behind it, and bands of rows k::

    v_k = relu(conv(u[rows that band k needs]))      exit bands, after all else of their stage
    m_k = redistribute(v_k)
    w_k = relu(conv(m_0 ... m_k))                    entry bands, before all else of their stage
    w   = concat(w_0, w_1, ...)

Bands are cut in the tensor that is exchanged, on even rows. Entry band k holds the output rows that
need nothing beyond band k of the input, so it may start when that has come. A convolution's padding
stays at the edge of the image; inside, a band reads its neighbours' rows (the halo).

The kernel before an exchange is what leads to it from convolutions through elementwise operators
that nothing else reads; the one behind it, each convolution that reads it, with the elementwise
operators that follow. What else reads the exchanged tensor gets it joined again. Exact: no sum
changes its terms.

Runs after `PropagatePlacement` and before `SplitStages`, which makes a stage of every band by the
``parts`` in the function attribute ``decnn.placement``; ``ties`` there name what should have the
channel block of a band that is sent. The function still computes the whole network.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.exchange_kernels import ExchangeKernels, is_convolution
from decnn_tvm.passes.placement_inference import arguments, with_arguments
from decnn_tvm.passes.row_windows import band_edges, output_edges, window_of
from decnn_tvm.passes.stage_graph import REDISTRIBUTE, StageGraph, is_movement
from decnn_tvm.passes.weights import (
    inputs_of,
    static_shape,
    unique_name,
    weight_values,
    weight_vars,
    with_weights,
)
from decnn_tvm.plan import Placement, placement_to_json

ENTRY, EXIT = 0, 2
"""Parts of a stage, in order; what is in no band is part 1."""


@tvm.transform.module_pass(opt_level=0, name="decnn.SplitRows")
class SplitRows:
    """Split the kernels beside every exchange of ``main`` into bands of rows.

    Parameters
    ----------
    bands : int
        Bands of an exchanged tensor, at least 1; fewer where it has too few rows.

    Raises
    ------
    PartitionError
        No placement on ``main``, or less than one band.
    """

    def __init__(self, *, bands: int) -> None:
        if bands < 1:
            raise PartitionError(f"SplitRows: bands={bands}; expected at least 1.")
        self.bands = bands

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        result = mod.clone()
        func = _Splitter(StageGraph(mod["main"], "float32"), self.bands).rewrite()
        result.update_func(result.get_global_var("main"), func)
        return result


@dataclass(frozen=True, slots=True)
class _Bands:
    """An exchanged tensor in bands: `tensors` hold the rows between `edges`."""

    edges: tuple[int, ...]
    tensors: tuple[relax.Var, ...]


class _Splitter:
    """Writes a function again, with the kernels beside exchanges in bands."""

    def __init__(self, graph: StageGraph, count: int) -> None:
        self.graph, self.count = graph, count
        self.builder = relax.BlockBuilder()
        self.new: dict[relax.Expr, relax.Expr] = {v: v for v in inputs_of(graph.func)}
        self.values: dict[str, Placement] = {
            v.name: graph.placement(v) for v in inputs_of(graph.func)
        }
        self.parts: dict[str, tuple[int, int]] = {}
        self.origins: dict[str, str] = {}
        self.ties: list[tuple[str, str]] = []
        self.bands: dict[relax.Var, _Bands] = {}
        self.kernels = ExchangeKernels(graph, count)
        self.exits, self.entries = self.kernels.exits, self.kernels.entries

    def rewrite(self) -> relax.Function:
        """Return the function."""
        func, graph = self.graph.func, self.graph
        inputs, weights = inputs_of(func), weight_vars(func)
        with self.builder.function("main", [*inputs, *weights]):
            with self.builder.dataflow():
                for var, value in graph.bound.items():
                    if var not in self.kernels.computed_in_bands:
                        self._bind(var, value)
                outputs = [self.new[var] for var in graph.outputs()]
                result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
                result = self.builder.emit_output(result, name_hint="outputs")
            self.builder.emit_func_output(result)
        built = self.builder.finalize()["main"]
        values = weight_values(func)
        whole = relax.Function(inputs, built.body, built.ret_ty, True, func.attrs)
        data = json.loads(str(func.attrs["decnn.placement"])) | {
            "values": {name: placement_to_json(p) for name, p in self.values.items()},
            "parts": self.parts,
            "origins": self.origins,
            "ties": self.ties,
        }
        return with_weights(whole, inputs, {var: values[var.name] for var in weights}).with_attr(
            "decnn.placement", json.dumps(data)
        )

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        if is_movement(value) and self.exits[var]:
            self._send_bands(var, value.args[1])
        elif var in self.entries:
            self._receive_bands(self.entries[var])
        elif isinstance(value, relax.TupleGetItem):
            item = relax.TupleGetItem(self.new[value.tuple_value], value.index)
            self.new[var] = self._emit(item, var)
        elif isinstance(value, relax.Call):
            args = [self._read(arg) for arg in arguments(value)]
            call = relax.Call(value.op, with_arguments(value, args), value.attrs, value.ty_args)
            self.new[var] = self._emit(call, var)

    def _emit(
        self, expr: relax.Expr, like: relax.Var, part: tuple[int, int] | None = None
    ) -> relax.Var:
        """Bind `expr`, placed as `like`, in a part of its stage."""
        bound = self.builder.emit(expr, name_hint=unique_name(like.name, self.values))
        self.values[bound.name] = self.graph.placement(like)
        if part is not None:
            self.parts[bound.name] = part
        return bound

    def _read(self, arg: relax.Expr) -> relax.Expr:
        """Return what stands for `arg`, an exchanged tensor joined from its bands."""
        if arg in self.bands and arg not in self.new:
            joined = relax.op.concat(list(self.bands[arg].tensors), axis=2)
            self.new[arg] = self._emit(joined, arg)
        return self.new.get(arg, arg)

    def _send_bands(self, target: relax.Var, source: relax.Var) -> None:
        edges = band_edges(static_shape(source)[2], self.count)
        tensors = []
        for index, rows in enumerate(_pairs(edges)):
            sent = self._rows(source, rows, self.exits[target], (EXIT, index))
            self.origins[str(sent.name)] = str(source.name)
            beside = {arg for var in self.exits[target] for arg in self._beside(var)}
            beside -= self.exits[target]
            self.ties += [(str(self._read(arg).name), str(sent.name)) for arg in beside]
            marker = relax.op.call_pure_packed(REDISTRIBUTE, sent, ty_args=[sent.ty])
            tensors.append(self._emit(marker, target))
        self.bands[target] = _Bands(tuple(edges), tuple(tensors))

    def _beside(self, var: relax.Var) -> list[relax.Var]:
        """Return the feature maps that `var` has channel by channel in common."""
        value = self.graph.bound[var]
        return [] if is_convolution(value) else self.graph.read_by(value)

    def _receive_bands(self, chain: list[relax.Var]) -> None:
        call = self.graph.bound[chain[0]]
        source = self.bands[call.args[0]]
        edges = output_edges(call, source.edges)
        parts = [
            self._rows(chain[-1], rows, frozenset(chain), (ENTRY, index))
            for index, rows in enumerate(_pairs(edges))
            if rows[0] < rows[1]
        ]
        joined = relax.op.concat(parts, axis=2) if len(parts) > 1 else parts[0]
        self.new[chain[-1]] = self._emit(joined, chain[-1])

    def _rows(
        self,
        var: relax.Var,
        rows: tuple[int, int],
        chain: frozenset[relax.Var],
        part: tuple[int, int],
    ) -> relax.Var:
        """Return rows of `var`, computing anew what is in `chain` and slicing what is not."""
        if var not in chain:
            return self._slice(var, rows, part)
        value = self.graph.bound[var]
        if is_convolution(value):
            bands = self.bands.get(value.args[0]) if part[0] == ENTRY else None
            window = window_of(value, rows, bands.edges if bands else ())
            data = self._rows(value.args[0], window.rows, chain, part)
            return self._emit(window.convolve(value, data), var, part)
        data = set(self.graph.read_by(value))
        args = [
            self._rows(arg, rows, chain, part) if arg in data else arg for arg in arguments(value)
        ]
        call = relax.Call(value.op, with_arguments(value, args), value.attrs, value.ty_args)
        return self._emit(call, var, part)

    def _slice(self, var: relax.Var, rows: tuple[int, int], part: tuple[int, int]) -> relax.Var:
        bands = self.bands.get(var) if part[0] == ENTRY else None
        if bands is None:
            return self._cut(self._read(var), var, rows, part)
        pieces = [
            self._cut(tensor, var, (max(rows[0], first) - first, min(rows[1], last) - first), part)
            for tensor, (first, last) in zip(bands.tensors, _pairs(bands.edges), strict=True)
            if max(rows[0], first) < min(rows[1], last)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return self._emit(relax.op.concat(pieces, axis=2), var, part)

    def _cut(
        self, tensor: relax.Var, like: relax.Var, rows: tuple[int, int], part: tuple[int, int]
    ) -> relax.Var:
        if rows == (0, static_shape(tensor)[2]):
            return tensor
        first, last = rows
        cut = relax.op.strided_slice(tensor, [2], [first], [last], assume_inbound=True)
        return self._emit(cut, like, part)


def _pairs(edges: Iterable[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(edges))
