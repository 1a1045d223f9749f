# SPDX-License-Identifier: Apache-2.0
"""Find the kernels beside exchanges that can be computed in bands of rows."""

from __future__ import annotations

import logging

import tvm
from tvm import relax

from decnn_tvm.passes.channel_blocks import ELEMENTWISE, is_feature_map, is_plain_convolution
from decnn_tvm.passes.placement_inference import arguments
from decnn_tvm.passes.row_windows import band_edges
from decnn_tvm.passes.stage_graph import StageGraph, is_movement
from decnn_tvm.passes.weights import is_call, static_shape
from decnn_tvm.plan import Host, Sharded

logger = logging.getLogger(__name__)


class ExchangeKernels:
    """The kernels beside the exchanges of a spread network.

    Parameters
    ----------
    graph : StageGraph
        The network.
    count : int
        Bands of an exchanged tensor.

    Attributes
    ----------
    exits : dict
        For each movement what is computed before it, from convolutions on; empty where it can't be
        computed in bands.
    entries : dict
        For each convolution behind such a movement, itself and the elementwise operators after it.
    computed_in_bands : frozenset of Var
        What needs no binding of its own.
    """

    def __init__(self, graph: StageGraph, count: int) -> None:
        self.graph, self.count = graph, count
        self.exits = {target: self._exit(target) for target in graph.movements()}
        banded = frozenset[relax.Var]().union(*self.exits.values())
        self.entries = {
            reader: self._entry(reader, banded)
            for target, chain in self.exits.items()
            for reader in graph.readers[target]
            if chain and reader not in banded and is_convolution(graph.bound[reader])
        }
        followers = {var for chain in self.entries.values() for var in chain[1:]}
        self.computed_in_bands = banded | followers

    def _exit(self, target: relax.Var) -> frozenset[relax.Var]:
        """Return what computes from convolutions what `target` brings; nothing if it can't be."""
        graph, source = self.graph, self.graph.bound[target].args[1]
        placement = graph.placement(source)
        along = isinstance(placement, Sharded) and placement.axis == 1
        if not along or not is_feature_map(source) or len(graph.readers[source]) != 1:
            return frozenset()
        if isinstance(graph.placement(target), Host):
            return frozenset()  # an output of the network is one tensor
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
        if is_convolution(value):
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


def is_convolution(value: relax.Expr) -> bool:
    """Tell whether `value` calls a 2-D convolution of NCHW data."""
    return isinstance(value, relax.Call) and is_plain_convolution(value)
