# SPDX-License-Identifier: Apache-2.0
"""Give convolutions more channels.

A convolution of C channels gets ``width * C``, rounded to a multiple of what groups and shuffles
need; so do all layers whose channels are tied to it by a sum, a concatenation or a pass-through
layer, and the inputs of the layers that read it. Inputs and outputs of the network and hidden
sizes of dense layers stay. New channel i copies channel ``i mod C``, and whoever sums over
channels divides by the number of copies (Net2WiderNet of Chen et al., "Net2Net", 2016), so the
widened network computes the same function; a width below 1 keeps the first channels and does not.
Group convolutions (other than depthwise) and what they read keep their size.

Run it on the dense network, before `InsertChannelShuffle` and `DecoupleConvolutions`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.channel_axes import ChannelAxes, ChannelAxis, WeightAxis
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    convolution,
    convolve,
    is_depthwise,
    op_name,
    read_graph,
    rewrite_bindings,
    shape_of,
)
from decnn_tvm.passes.decouple_convolutions import (
    Origin,
    check_groups,
    check_origin,
    he_normal,
    reset_normalisation,
)
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    weight_values,
    weight_var,
    weight_vars,
    with_weights,
)

logger = logging.getLogger(__name__)
_NO_CHANNELS: Mapping[str, int] = MappingProxyType({})


@tvm.transform.module_pass(opt_level=0, name="decnn.WidenChannels")
class WidenChannels:
    """Multiply the channels of convolutions.

    Parameters
    ----------
    width : float
        Factor, above 0.
    groups : int
        Number of channel groups that the network is to be decoupled into.
    multiple : int, optional
        Every widened count is a multiple of it; ``groups ** 2``, what a shuffle needs, if left
        out. With ``width=1.0`` counts are rounded up to it.
    channels : mapping from layer name to int, optional
        Exact counts, which win over `width`; layers with tied channels must agree.
    exclude : iterable of str
        Layers whose channels stay, with those tied to them.
    weights : {"inherit", "fresh"}
        Compute the same function, or draw all convolutions anew (He normal) and reset batch norms.
    seed : int
        Seed of fresh weights.

    Raises
    ------
    DecoupleError
        Bad options, unknown layers, or an operator that can't be widened through.
    """

    def __init__(
        self,
        *,
        width: float,
        groups: int,
        multiple: int | None = None,
        channels: Mapping[str, int] = _NO_CHANNELS,
        exclude: Iterable[str] = (),
        weights: Origin = "inherit",
        seed: int = 0,
    ) -> None:
        check_groups(groups)
        check_origin(weights)
        if not (isinstance(width, int | float) and 0 < width < math.inf):
            raise DecoupleError(f"width must be a factor above 0, got {width!r}")
        if multiple is not None and multiple < 1:
            raise DecoupleError(f"multiple must be at least 1, got {multiple}")
        self.width, self.multiple = width, multiple or groups**2
        self.channels, self.exclude = dict(channels), tuple(exclude)
        self.weights, self.seed = weights, seed

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        mod = LiftWeights()(mod)  # type: ignore[operator]
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                mod.update_func(var, self._widen(func))
        return mod

    def _widen(self, func: relax.Function) -> relax.Function:
        graph = read_graph(func)
        axes = ChannelAxes(graph).infer()
        sources = {root: self._source(axes, root, n) for root, n in self.sizes(axes).items()}
        values = weight_values(func)
        wider = {
            name: widened(values[name], roles, axes, sources)
            for name, roles in axes.weights.items()
        }
        weights = {**values, **wider}
        if self.weights == "fresh":
            self._renew(graph, weights)
        return _rewrite(graph, axes, sources, weights)

    def sizes(self, axes: ChannelAxes) -> dict[int, int]:
        """Return the new size of every class of channels."""
        classes = axes.classes
        for name in (*self.channels, *self.exclude):
            if name not in classes.layers:
                raise DecoupleError(
                    f"no convolution is named {name!r}; expected some of {list(classes.layers)}"
                )
        for name in self.exclude:
            classes.fix(classes.resolve(classes.layers[name]))
        every = {r for s in range(len(classes.sizes)) for r in classes.resolve((s,))}
        sizes = {
            r: classes.sizes[r] if r in classes.fixed else self._round(classes.sizes[r])
            for r in every
        }
        named: dict[int, int] = {}
        for name, count in self.channels.items():
            (*roots,) = classes.resolve(classes.layers[name])
            if len(roots) != 1 or named.setdefault(roots[0], count) != count or count < 1:
                raise DecoupleError(
                    f"layer {name!r} can't have {count} channels: it is tied to other layers"
                )
            if roots[0] in classes.fixed and count != classes.sizes[roots[0]]:
                raise DecoupleError(
                    f"layer {name!r} can't have {count} channels: it must keep "
                    f"{classes.sizes[roots[0]]}, as it is excluded, an output of the network, or "
                    "read by a group convolution"
                )
        return {**sizes, **named}

    def _round(self, size: int) -> int:
        count = max(1, math.floor(size * self.width / self.multiple + 0.5)) * self.multiple
        if self.width >= 1 and count < size:
            count += self.multiple * math.ceil((size - count) / self.multiple)
        return count

    def _source(self, axes: ChannelAxes, root: int, count: int) -> Array:
        logger.debug("class %d: %d channels, now %d", root, axes.classes.sizes[root], count)
        return np.arange(count) % axes.classes.sizes[root]

    def _renew(self, graph: DataflowGraph, weights: dict[str, Array]) -> None:
        for var in graph.data:
            call = convolution(graph.values.get(var))
            if call is not None:
                name = call.args[1].name
                weights[name] = he_normal(call, weights[name], self.seed)
                reset_normalisation(graph, var, weights)


def _index(
    channels: ChannelAxis, axes: ChannelAxes, sources: Mapping[int, Array]
) -> tuple[Array, Array]:
    """Return, along an axis, what each new element copies and in how many copies that exists."""
    source, counts, offset = [], [], 0
    for root in axes.classes.resolve(channels.segments):
        copies = np.bincount(sources[root], minlength=axes.classes.sizes[root])
        source.append(sources[root] + offset)
        counts.append(copies[sources[root]])
        offset += axes.classes.sizes[root]
    outer, inner = np.arange(channels.outer)[:, None, None], np.arange(channels.inner)
    block = np.concatenate(source)[None, :, None]
    index = (outer * offset + block) * channels.inner + inner
    copies = np.broadcast_to(np.concatenate(counts)[None, :, None], index.shape)
    return index.ravel(), copies.ravel()


def widened(
    value: Array, roles: list[WeightAxis], axes: ChannelAxes, sources: Mapping[int, Array]
) -> Array:
    """Return a weight whose every new channel copies one of the old ones.

    Parameters
    ----------
    value : array
        The weight.
    roles : list of WeightAxis
        Its axes that follow channels.
    axes : ChannelAxes
        The network's.
    sources : mapping from class to array
        For each new channel of the class, the old one that it copies; each old one at least once.
    """
    for role in roles:
        index, copies = _index(role.channels, axes, sources)
        value = np.take(value, index, axis=role.channels.axis)
        if role.summed:
            shape = [1] * value.ndim
            shape[role.channels.axis] = -1
            value = (value / copies.reshape(shape)).astype(value.dtype)
    return value


def _rewrite(
    graph: DataflowGraph,
    axes: ChannelAxes,
    sources: Mapping[int, Array],
    weights: dict[str, Array],
) -> relax.Function:
    olds = weight_vars(graph.func)
    news = {
        old: weight_var(old.name, weights[old.name])
        for old in olds
        if weights[old.name].shape != shape_of(old)
    }

    def rewrite(_builder: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr:
        channels = axes.tensors.get(var)
        if op_name(value) == "relax.reshape" and channels is not None:
            shape = list(shape_of(var))
            shape[channels.axis] = len(_index(channels, axes, sources)[0])
            return relax.op.reshape(value.args[0], shape)
        call = convolution(value)
        if call is not None and is_depthwise(call):
            return convolve(call.args[0], call.args[1], call, shape_of(call.args[0])[1])
        return value

    rewritten = rewrite_bindings(graph.func, rewrite, news)
    params = {news.get(old, old): weights[old.name] for old in olds}
    return with_weights(rewritten, inputs_of(graph.func), params)
