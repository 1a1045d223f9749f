# SPDX-License-Identifier: Apache-2.0
"""The channel classes of a network to be decoupled, with the shuffles that it will have.

A shuffle is marked by a selection of channels that changes nothing, after which a class of its own
begins: position j there holds what stands at position ``permutation[j]`` before. So the order of
the first class gives that of the second, and weights around both are permuted
accordingly: in the dense network that changes nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.channel_assignment import Channels, Index, Layer, Side, Sources
from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.canonicalize_channel_selection import CanonicalizeChannelSelection
from decnn_tvm.passes.channel_axes import ChannelAxes
from decnn_tvm.passes.channel_classes import Segments
from decnn_tvm.passes.channel_ownership import channel_owners
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    layer_name,
    read_graph,
    rewrite_bindings,
    shape_of,
)
from decnn_tvm.passes.decouple_convolutions import decoupled_layers
from decnn_tvm.passes.shuffle_places import shuffle_places
from decnn_tvm.passes.weights import Array, weight_values
from decnn_tvm.passes.widen_channels import WidenChannels, widened

if TYPE_CHECKING:
    from decnn_tvm.passes.insert_channel_shuffle import Order
    from decnn_tvm.presets import Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledClass:
    """A class after a shuffle: the channels of `segments`, in the order of `permutation`."""

    segments: Segments
    permutation: Index


class ChannelLayout:
    """Classes, sizes and layers of a dense network that is to get a structure.

    Parameters
    ----------
    func : relax.Function
        The dense network, with named weights.
    structure : Structure
        Groups, shuffles and widths.
    widening : WidenChannels or None
        What widens it.
    order : {"decnn", "shufflenet"}
        Order of the shuffles.
    exclude : sequence of str
        Layers that stay dense.
    """

    def __init__(
        self,
        func: relax.Function,
        structure: Structure,
        widening: WidenChannels | None,
        order: Order,
        exclude: tuple[str, ...],
    ) -> None:
        self.groups = structure.groups
        self.graph, shuffled = _with_marks(func, structure)
        self.axes = ChannelAxes(self.graph, shuffled).infer()
        classes = self.axes.classes
        self.roots = {r for s in range(len(classes.sizes)) for r in classes.resolve((s,))}
        sizes = widening.sizes(self.axes) if widening else {r: classes.sizes[r] for r in self.roots}
        self.shuffles: dict[int, ShuffledClass] = {}
        self.sizes = dict(sizes)
        for after, before in shuffled.items():
            self._link(after, before, order)
        self._layers = decoupled_layers(self.graph, exclude)

    def _link(self, after: relax.Var, before: relax.Var, order: Order) -> None:
        (source, target) = (self.axes.tensors[v] for v in (before, after))
        if source is None or target is None:
            return
        resolve = self.axes.classes.resolve
        segments, roots = resolve(source.segments), resolve(target.segments)
        if len(roots) != 1 or roots[0] in self.axes.classes.fixed or roots[0] in self.shuffles:
            raise DecoupleError(
                f"channels can't be regrouped around the shuffle after {before.name!r}: what it "
                "gives is an output of the network, or tied to other channels; use decouple(), "
                "or shuffle elsewhere"
            )
        count = sum(self.sizes[each] for each in segments)
        rows = count // self.groups if order == "decnn" else self.groups
        permutation = np.arange(count).reshape(rows, -1).T.reshape(-1)
        self.sizes[roots[0]] = count
        self.shuffles[roots[0]] = ShuffledClass(segments=segments, permutation=permutation)

    def channels(self) -> dict[int, Channels]:
        """Return the classes whose order can be chosen, or is given; not those after a shuffle."""
        classes = self.axes.classes
        return {
            root: Channels(
                old=classes.sizes[root], new=self.sizes[root], free=root not in classes.fixed
            )
            for root in self.roots
            if root not in self.shuffles
        }

    def layers(self, variances: Mapping[str, Array]) -> dict[str, Layer]:
        """Return the layers to decouple by name; `variances` are those of their inputs."""
        values = weight_values(self.graph.func)
        owners = self._owners()
        found = {}
        for var, call in self._layers.items():
            name, weight = layer_name(call), values[call.args[1].name].astype("float64")
            energy = np.square(weight).sum(axis=tuple(range(2, weight.ndim)))
            found[name] = Layer(
                outputs=self._side(var, owners),
                inputs=self._side(call.args[0], owners),
                energy=energy * np.asarray(variances[name], "float64"),
            )
        return found

    def inputs_of_layers(self) -> dict[str, relax.Var]:
        """Return what each layer to decouple reads."""
        return {layer_name(call): call.args[0] for call in self._layers.values()}

    def input_owners(self) -> dict[str, Index]:
        """Return the group of each new input of each layer to decouple."""
        owners = self._owners()
        return {name: owners[var] for name, var in self.inputs_of_layers().items()}

    def weight_name(self, layer: str) -> str:
        """Return the name of the weight of a layer to decouple."""
        return next(
            str(call.args[1].name) for call in self._layers.values() if layer_name(call) == layer
        )

    def sources(self, chosen: Sources) -> Sources:
        """Return `chosen` with the classes after shuffles."""
        result = dict(chosen)
        for root in sorted(self.shuffles):
            self._shuffled_sources(root, result)
        return result

    def weights(self, chosen: Sources) -> dict[str, Array]:
        """Return all weights in the new order and width; the dense network computes the same."""
        values, sources = weight_values(self.graph.func), self.sources(chosen)
        return {
            name: widened(value, self.axes.weights.get(name, []), self.axes, sources)
            for name, value in values.items()
        }

    def side_sources(self, name: str, chosen: Sources) -> tuple[Index, Index]:
        """Return the old channels of a layer that its new outputs and its new inputs copy."""
        sources = self.sources(chosen)
        (var,) = (v for v, call in self._layers.items() if layer_name(call) == name)
        return (
            self._copied(var, sources),
            self._copied(self._layers[var].args[0], sources),
        )

    def _copied(self, var: relax.Var, sources: Sources) -> Index:
        parts, offset = [], 0
        for root in self._segments(var):
            parts.append(sources[root] + offset)
            offset += self.axes.classes.sizes[root]
        return np.concatenate(parts)

    def _shuffled_sources(self, root: int, sources: Sources) -> Index:
        if root not in sources:
            shuffle, parts, offset = self.shuffles[root], [], 0
            for each in shuffle.segments:
                parts.append(self._shuffled_sources(each, sources) + offset)
                offset += self.axes.classes.sizes[each]
            sources[root] = np.concatenate(parts)[shuffle.permutation]
        return sources[root]

    def _segments(self, var: relax.Var) -> Segments:
        channels = self.axes.tensors[var]
        assert channels is not None
        return self.axes.classes.resolve(channels.segments)

    def _side(self, var: relax.Var, owners: Mapping[relax.Var, Index]) -> Side:
        segments = self._segments(var)
        return Side(
            channels=np.concatenate([self._old(root) for root in segments]),
            positions=np.concatenate([self._new(root) for root in segments]),
            owners=owners[var],
        )

    def _old(self, root: int) -> Index:
        """Return the class before all shuffles, and the number there, of each old channel."""
        if root in self.shuffles:
            return np.concatenate([self._old(each) for each in self.shuffles[root].segments])
        count = self.axes.classes.sizes[root]
        return np.stack([np.full(count, root), np.arange(count)], axis=1)

    def _new(self, root: int) -> Index:
        """Return the same of each new channel, in the order in which they stand."""
        if root in self.shuffles:
            shuffle = self.shuffles[root]
            return np.concatenate([self._new(s) for s in shuffle.segments])[shuffle.permutation]
        count = self.sizes[root]
        return np.stack([np.full(count, root), np.arange(count)], axis=1)

    def _owners(self) -> dict[relax.Var, Index]:
        """Return the group of each new channel of what layers read and give."""
        owners = channel_owners(self.graph, self.groups)
        result = {}
        for var in {*self._layers, *(call.args[0] for call in self._layers.values())}:
            # Groups of the dense tensor, stretched to the new sizes of its parts.
            parts, offset = [], 0
            for root in self._segments(var):
                old, new = self.axes.classes.sizes[root], self.sizes[root]
                part = owners[var][offset : offset + old]
                parts.append(part if old == new else _stretched(part, new, self.groups))
                offset += old
            result[var] = np.concatenate(parts)
        return result


def _stretched(owners: Index, count: int, groups: int) -> Index:
    """Return the owners of a contiguously grouped class of another size."""
    if len(np.unique(owners)) == groups:
        return np.arange(count) * groups // count
    return owners[np.arange(count) * len(owners) // count]


def _with_marks(
    func: relax.Function, structure: Structure
) -> tuple[DataflowGraph, dict[relax.Var, relax.Var]]:
    """Return the network with a selection of all channels at each place of a shuffle."""
    module = CanonicalizeChannelSelection()(tvm.IRModule({"main": func}))  # type: ignore[operator]
    plain = module["main"]
    if structure.shuffle is None:
        return read_graph(plain), {}
    graph = read_graph(plain)
    places = set(shuffle_places(graph, structure.groups, structure.shuffle))
    marks: list[relax.Expr] = []

    def rewrite(builder: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in places:
            return value
        marks.append(relax.const(np.arange(shape_of(var)[1])))
        return relax.op.take(builder.emit(value), marks[-1], axis=1)

    marked = read_graph(rewrite_bindings(plain, rewrite))
    shuffled = {
        var: read[0]
        for var, read in marked.data.items()
        if (call := marked.call(var, "relax.take")) is not None
        and any(call.args[1].same_as(mark) for mark in marks)
    }
    assert len(shuffled) == len(places)
    return marked, shuffled
