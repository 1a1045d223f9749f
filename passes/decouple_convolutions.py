# SPDX-License-Identifier: Apache-2.0
"""Turn dense convolutions into group convolutions.

``conv2d(x, W[O, I, kh, kw])`` becomes ``conv2d(x, V[O, I/G, kh, kw], groups=G)``: output group g
reads input group g alone, ``V[g] = W[g*O/G:(g+1)*O/G, g*I/G:(g+1)*I/G]`` (the diagonal blocks).
The stem, the classifier, depthwise and grouped convolutions stay. Where the input is a
concatenation, whose groups are not contiguous, ``take(x, order, axis=1)`` puts them together
first, once per tensor (see `channel_ownership`).

This changes the function: the weights off the diagonal blocks are gone. A network so decoupled
wants training; `InsertChannelShuffle` lets its groups mix, `WidenChannels` wins back width. Run
both before this pass. The function gets the attribute ``decnn.groups``.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.channel_ownership import channel_owners, order_by_owner
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    classifier_convolutions,
    convolution,
    convolve,
    layer_name,
    op_name,
    read_graph,
    reads_raw_input,
    rewrite_bindings,
    shape_of,
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
Origin = Literal["inherit", "fresh"]


@tvm.transform.module_pass(opt_level=0, name="decnn.DecoupleConvolutions")
class DecoupleConvolutions:
    """Turn every dense convolution but the stem and the classifier into a group convolution.

    Parameters
    ----------
    groups : int
        Number of channel groups, G.
    exclude : iterable of str
        Layers to leave dense, by name (their weight's, without ``.weight``).
    weights : {"inherit", "fresh"}
        Keep the diagonal blocks of the dense weights, or draw new ones (He normal).
    seed : int
        Seed of fresh weights; each layer draws by its own name.

    Raises
    ------
    DecoupleError
        A layer's channels don't divide by `groups`, or `exclude` names no layer.
    """

    def __init__(
        self,
        *,
        groups: int,
        exclude: Iterable[str] = (),
        weights: Origin = "inherit",
        seed: int = 0,
    ) -> None:
        check_groups(groups)
        check_origin(weights)
        self.groups, self.exclude = groups, tuple(exclude)
        self.weights, self.seed = weights, seed

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        mod = LiftWeights()(mod)  # type: ignore[operator]
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                mod.update_func(var, self._decouple(func))
        return mod

    def _decouple(self, func: relax.Function) -> relax.Function:
        graph = read_graph(func)
        layers = decoupled_layers(graph, self.exclude)
        values = weight_values(func)
        owners = channel_owners(graph, self.groups)
        orders, new = {}, dict(values)
        for var, call in layers.items():
            _check_divides(call, self.groups)
            order = order_by_owner(owners[call.args[0]])
            if order is not None:
                orders[call.args[0]] = order
            new[call.args[1].name] = self._weight(call, values[call.args[1].name], order)
            logger.debug("%s: %d groups", layer_name(call), self.groups)
            if self.weights == "fresh":
                reset_normalisation(graph, var, new)
        return _rewrite(graph, layers, orders, new, self.groups)

    def _weight(self, call: relax.Call, dense: Array, order: Array | None) -> Array:
        ordered = dense if order is None else dense[:, order]
        blocks = [
            np.split(rows, self.groups, axis=1)[g]
            for g, rows in enumerate(np.split(ordered, self.groups, axis=0))
        ]
        kept = np.concatenate(blocks)
        return kept if self.weights == "inherit" else he_normal(call, kept, self.seed)


def _rewrite(
    graph: DataflowGraph,
    layers: dict[relax.Var, relax.Call],
    orders: dict[relax.Var, Array],
    weights: dict[str, Array],
    groups: int,
) -> relax.Function:
    func = graph.func
    olds = weight_vars(func)
    news = {old: weight_var(old.name, weights[old.name]) for old in olds}
    ordered: dict[relax.Var, relax.Var] = {}

    def rewrite(builder: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in layers:
            return value
        source = layers[var].args[0]
        data = value.args[0]
        if source in orders:
            if source not in ordered:
                taken = relax.op.take(data, relax.const(orders[source]), axis=1)
                ordered[source] = builder.emit(taken)
            data = ordered[source]
        return convolve(data, value.args[1], value, groups)

    used = {old: new for old, new in news.items() if shape_of(old) != shape_of(new)}
    rewritten = rewrite_bindings(func, rewrite, used)
    params = {used.get(old, old): weights[old.name] for old in olds}
    return with_weights(rewritten, inputs_of(func), params).with_attr("decnn.groups", groups)


def decoupled_layers(
    graph: DataflowGraph, exclude: Iterable[str] = ()
) -> dict[relax.Var, relax.Call]:
    """Return the dense convolutions that a decoupling turns into group convolutions.

    Raises
    ------
    DecoupleError
        `exclude` names no convolution, or two layers share a weight.
    """
    calls = {
        var: call for var in graph.data if (call := convolution(graph.values.get(var))) is not None
    }
    names = [layer_name(call) for call in calls.values()]
    unknown = set(exclude) - set(names)
    if unknown:
        raise DecoupleError(
            f"excluded layers {sorted(unknown)} are no convolutions of this network; "
            f"expected some of {names}"
        )
    shared = sorted({name for name in names if names.count(name) > 1})
    if shared:
        raise DecoupleError(f"layers that share a weight can't be decoupled: {shared}")
    raw, classifiers = reads_raw_input(graph), classifier_convolutions(graph)
    return {
        var: call
        for var, call in calls.items()
        if int(call.attrs.groups) == 1
        and call.args[0] not in raw
        and var not in classifiers
        and layer_name(call) not in exclude
    }


def he_normal(call: relax.Call, like: Array, seed: int) -> Array:
    """Draw weights of the shape of `like`: normal, variance 2 / fan-in (He et al., 2015)."""
    random = np.random.default_rng([seed, zlib.crc32(layer_name(call).encode())])
    deviation = np.sqrt(2.0 / np.prod(like.shape[1:]))
    drawn: Array = (random.standard_normal(like.shape) * deviation).astype(like.dtype)
    return drawn


def reset_normalisation(graph: DataflowGraph, var: relax.Var, weights: dict[str, Array]) -> None:
    """Set the batch norm that reads convolution `var` to the identity, and its bias to 0."""
    for user in graph.consumers[var]:
        value = graph.values[user]
        if op_name(value) == "relax.nn.batch_norm":
            for arg, fill in zip(value.args[1:], (1.0, 0.0, 0.0, 1.0), strict=True):
                weights[arg.name] = np.full_like(weights[arg.name], fill)
        elif op_name(value) == "relax.add" and graph.is_activation(user):
            for name in _bias_names(graph, value):
                weights[name] = np.zeros_like(weights[name])


def _bias_names(graph: DataflowGraph, add: relax.Call) -> list[str]:
    names: list[str] = []
    for arg in add.args:
        while op_name(graph.values.get(arg)) == "relax.reshape" and arg not in graph.data:
            arg = graph.values[arg].args[0]
        if isinstance(arg, relax.Var) and arg not in graph.data and arg not in graph.values:
            names.append(str(arg.name))
    return names


def _check_divides(call: relax.Call, groups: int) -> None:
    outputs, inputs = shape_of(call.args[1])[:2]
    if outputs % groups or inputs % groups:
        raise DecoupleError(
            f"layer {layer_name(call)!r} has {inputs} input and {outputs} output channels, which "
            f"don't both divide by {groups} groups; exclude it, choose another number of groups, "
            "or widen the network to multiples of it (WidenChannels)"
        )


def check_groups(groups: int) -> None:
    """Raise `DecoupleError` unless `groups` is a positive whole number."""
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise DecoupleError(f"groups must be a whole number of at least 1, got {groups!r}")


def check_origin(weights: str) -> None:
    """Raise `DecoupleError` unless `weights` is one of the two choices."""
    if weights not in ("inherit", "fresh"):
        raise DecoupleError(f"weights must be 'inherit' or 'fresh', got {weights!r}")
