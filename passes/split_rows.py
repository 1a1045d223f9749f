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

The kernel before an exchange is what leads to it from convolutions through elementwise operators that
nothing else reads; the one behind it, each convolution that reads it, with the elementwise operators
that follow. What else reads the exchanged tensor gets it joined again. Exact: no sum changes its
terms or their order within a kernel.

Runs after `PropagatePlacement` and before `SplitStages`, which makes a stage of every band by the
``parts`` of the function attribute ``decnn.placement``. The function still computes the whole network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.channel_blocks import ELEMENTWISE, is_feature_map, is_plain_convolution
from decnn_tvm.passes.placement_inference import arguments, with_arguments
from decnn_tvm.passes.row_windows import band_edges, output_edges, window_of
from decnn_tvm.passes.stage_graph import REDISTRIBUTE, StageGraph, is_movement
from decnn_tvm.passes.weights import (
    inputs_of,
    is_call,
    static_shape,
    unique_name,
    weight_values,
    weight_vars,
    with_weights,
)
from decnn_tvm.plan import Placement, Sharded, placement_to_json

logger = logging.getLogger(__name__)

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
        self.bands: dict[relax.Var, _Bands] = {}
        # By the movement that follows: what is computed band by band before it.
        self.exits = {target: self._exit(source) for target, source in graph.movements().items()}
        banded = frozenset[relax.Var]().union(*self.exits.values())
        # By its convolution: the kernel behind a movement, as a chain of variables.
        self.entries = {
            reader: self._entry(reader, banded)
            for target, chain in self.exits.items()
            for reader in graph.readers[target]
            if chain and reader not in banded and is_plain_convolution(graph.bound[reader])
        }
        self.done = banded | {var for chain in self.entries.values() for var in chain[1:]}

    def rewrite(self) -> relax.Function:
        """Return the function."""
        func, graph = self.graph.func, self.graph
        inputs, weights = inputs_of(func), weight_vars(func)
        with self.builder.function("main", [*inputs, *weights]):
            with self.builder.dataflow():
                for var, value in graph.bound.items():
                    if var not in self.done:
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
        }
        return with_weights(whole, inputs, {var: values[var.name] for var in weights}).with_attr(
            "decnn.placement", json.dumps(data)
        )

    def _exit(self, source: relax.Var) -> frozenset[relax.Var]:
        """Return what computes the exchanged `source` from convolutions; nothing if it can't be."""
        graph = self.graph
        placement = graph.placement(source)
        along = isinstance(placement, Sharded) and placement.axis == 1
        if not along or not is_feature_map(source) or len(graph.readers[source]) != 1:
            return frozenset()
        if len(band_edges(static_shape(source)[2], self.count)) < 3:
            return frozenset()
        chain: set[relax.Var] = set()
        found = self._collect(source, chain)
        if not found:
            logger.debug("%s is not sent in bands: no convolution right before it", source.name)
        return frozenset(chain) if found else frozenset()

    def _collect(self, var: relax.Var, chain: set[relax.Var]) -> bool:
        """Add what leads to `var` row by row; tell whether there is a convolution."""
        value = self.graph.bound.get(var)
        if not isinstance(value, relax.Call) or len(self.graph.readers[var]) != 1:
            return False
        if is_plain_convolution(value):
            chain.add(var)
            return True
        if not self._is_row_by_row(value):
            return False
        chain.add(var)
        return any([self._collect(arg, chain) for arg in self.graph.read_by(value)])

    def _is_row_by_row(self, call: relax.Call) -> bool:
        """Tell whether row y of `call` comes from row y of its operands."""
        if not isinstance(call.op, tvm.ir.Op) or not is_feature_map(call):
            return False
        if is_call(call, "relax.take"):
            return int(call.attrs.axis) == 1
        height = static_shape(call)[2]
        tensors = [a for a in arguments(call) if isinstance(a.ty, relax.TensorType)]
        rows = [static_shape(a)[-2] if a.ty.ndim >= 2 else 1 for a in tensors]
        data = {*self.graph.read_by(call)}
        return call.op.name in ELEMENTWISE and all(
            extent == (height if tensor in data else 1)
            for tensor, extent in zip(tensors, rows, strict=True)
        )

    def _entry(self, convolution: relax.Var, banded: frozenset[relax.Var]) -> list[relax.Var]:
        """Return `convolution` and the elementwise operators that follow it."""
        graph, chain = self.graph, [convolution]
        while len(graph.readers[chain[-1]]) == 1:
            (reader,) = graph.readers[chain[-1]]
            value = graph.bound[reader]
            if reader in banded or not isinstance(value, relax.Call) or is_movement(value):
                break
            if len(graph.read_by(value)) != 1 or not self._is_row_by_row(value):
                break
            chain.append(reader)
        return chain

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
            marker = relax.op.call_pure_packed(REDISTRIBUTE, sent, ty_args=[sent.ty])
            tensors.append(self._emit(marker, target))
        self.bands[target] = _Bands(tuple(edges), tuple(tensors))

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
        if is_plain_convolution(value):
            window = window_of(value, rows)
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
    listed = list(edges)
    return list(zip(listed, listed[1:], strict=False))
