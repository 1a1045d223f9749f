# SPDX-License-Identifier: Apache-2.0
"""The static scales of a network's exchanges as weights of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from tvm import relax

from decnn_tvm.passes.stage_graph import StageGraph, is_movement, scale_name
from decnn_tvm.passes.weights import Array
from decnn_tvm.placement.shard import REPLICATED, WeightShard, slice_weight
from decnn_tvm.plan import Owned, Sharded, Weight


class WireScales:
    """What sender and receiver of each calibrated exchange multiply by.

    Parameters
    ----------
    graph : StageGraph
        The network, with its wire type and limits.
    """

    def __init__(self, graph: StageGraph) -> None:
        self._graph = graph
        self._weights: dict[str, tuple[Array, WeightShard]] = {}
        for target in graph.movements():
            encoding, source = graph.encoding(target), graph.bound[target].args[1]
            if encoding.is_static and encoding.axis is not None:
                scale = encoding.scale(len(target.ty.shape))
                if not graph.moved_on(source):
                    sent = graph.sent_as(target)
                    self._add(inverse_name(sent), 1 / scale, source, encoding.axis)
                if any(not is_movement(graph.bound[reader]) for reader in graph.readers[target]):
                    self._add(scale_name(str(target.name)), scale, target, encoding.axis)

    def _add(self, name: str, value: Array, var: relax.Var, axis: int) -> None:
        placement, shard = self._graph.scale_placement(var, axis), REPLICATED
        if isinstance(placement, Sharded):
            shard = WeightShard(axes={axis: placement.groups}, combine="concat", axis=axis)
        elif isinstance(placement, Owned):
            shard = WeightShard(group=placement.group)
        self._weights[name] = (value.astype("float32"), shard)

    def read_by(self, inputs: Iterable[str], outputs: Iterable[str]) -> Iterator[str]:
        """Yield the names of the scales that a stage with these values reads."""
        for name in [*map(scale_name, inputs), *map(inverse_name, outputs)]:
            if name in self._weights:
                yield name

    def slices(self, groups: int) -> dict[str, list[Array]]:
        """Return one slice per channel group for every scale, one alone where it is replicated.

        Padding channels have the scale 0.
        """
        return {
            name: [
                np.ascontiguousarray(slice_weight(value, shard, group))
                for group in range(1 if shard.combine == "replicate" else groups)
            ]
            for name, (value, shard) in self._weights.items()
        }

    def weights(self) -> Iterator[Weight]:
        """Yield the scales as the plan lists weights."""
        for name, (value, shard) in self._weights.items():
            yield Weight(
                name=name,
                shape=slice_weight(value, shard, 0).shape,
                dtype="float32",
                combine=shard.combine,
                axis=shard.axis,
                group=shard.group,
            )


def inverse_name(sent: str) -> str:
    """Return the name of the inverse scales of the value that is sent as `sent`."""
    return f"{sent}.inverse_scale"
