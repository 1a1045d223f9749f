# SPDX-License-Identifier: Apache-2.0
"""Where channel shuffles go: pure functions from a network to the tensors to shuffle.

A place is a tensor that all later layers see shuffled. Except after layers that the user names, it
is a *bottleneck*: all data flows through it, so no residual sum adds shuffled to unshuffled
channels. A place that no decoupled convolution follows would mix nothing and is left out; so
``"block"`` gives ResNet-50 15 shuffles, one after each of its 16 blocks but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    classifier_convolutions,
    convolution,
    is_depthwise,
    layer_name,
    op_name,
    reads_raw_input,
    shape_of,
)

Where: TypeAlias = Literal["stage", "block"] | int | Sequence[str]
_SHRINKING = frozenset({"relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d"})
_SUMS = frozenset({"relax.add", "relax.multiply", "relax.subtract"})


def shuffle_places(graph: DataflowGraph, groups: int, where: Where) -> list[relax.Var]:
    """Return the tensors to shuffle, in order.

    Raises
    ------
    DecoupleError
        `where` is none of the choices, names no layer, or gives no place at all.
    """
    depth = convolution_depth(graph, groups)
    if isinstance(where, str):
        if where not in ("stage", "block"):
            raise DecoupleError(
                f"shuffle must be 'stage', 'block', a number of layers or layer names, "
                f"got {where!r}"
            )
        found = _by_stage(graph, depth) if where == "stage" else _by_block(graph, depth)
    elif isinstance(where, int):
        found = _by_count(graph, depth, where)
    else:
        found = _by_name(graph, where)
    followed = _before_a_convolution(graph, groups)
    places = [var for var in graph.data if var in found and var in followed]
    if not places:
        raise DecoupleError(
            f"no place for a channel shuffle by {where!r}: no such tensor comes before a "
            "decoupled convolution; choose other places, or no shuffle"
        )
    return places


def convolution_depth(graph: DataflowGraph, groups: int) -> dict[relax.Var, int]:
    """Count the decoupled (or to be decoupled) convolutions on the longest path to each tensor."""
    raw, classifiers = reads_raw_input(graph), classifier_convolutions(graph)
    depth: dict[relax.Var, int] = {}
    for var, read in graph.data.items():
        call = convolution(graph.values.get(var))
        counts = (
            call is not None
            and int(call.attrs.groups) in (1, groups)
            and not is_depthwise(call)
            and call.args[0] not in raw
            and var not in classifiers
        )
        depth[var] = max((depth[source] for source in read), default=0) + counts
    return depth


def bottlenecks(graph: DataflowGraph) -> list[relax.Var]:
    """Return the four-axis tensors through which all data flows, in order."""
    position = {var: i for i, var in enumerate(graph.data)}
    last_use = [max((position[u] for u in graph.consumers[v]), default=-1) for v in graph.data]
    for output in graph.outputs:
        last_use[position[output]] = len(position)
    found, reach = [], -1
    for i, var in enumerate(graph.data):
        if reach <= i and len(shape_of(var)) == 4:
            found.append(var)
        reach = max(reach, last_use[i])
    return found


def settled(graph: DataflowGraph, var: relax.Var) -> relax.Var:
    """Follow `var` through its batch norm, bias and activation."""
    while len(graph.consumers[var]) == 1 and graph.is_activation(graph.consumers[var][0]):
        var = graph.consumers[var][0]
    return var


def _by_stage(graph: DataflowGraph, depth: dict[relax.Var, int]) -> set[relax.Var]:
    position = {var: i for i, var in enumerate(graph.data)}
    narrow = bottlenecks(graph)
    found = set()
    for var, read in graph.data.items():
        call = graph.call(var, *_SHRINKING)
        if call is None or max(int(s) for s in call.attrs.strides) < 2 or not depth[read[0]]:
            continue
        before = [place for place in narrow if position[place] <= position[read[0]]]
        if before and depth[before[-1]]:
            found.add(before[-1])
    return found


def _by_block(graph: DataflowGraph, depth: dict[relax.Var, int]) -> set[relax.Var]:
    joins = [
        var
        for var, read in graph.data.items()
        if len(read) > 1 and op_name(graph.values.get(var)) in _SUMS | {"relax.concat"}
    ]
    ends = {settled(graph, var) for var in joins if depth[var]}
    return ends & set(bottlenecks(graph))


def _by_count(graph: DataflowGraph, depth: dict[relax.Var, int], every: int) -> set[relax.Var]:
    if every < 1:
        raise DecoupleError(f"shuffle every k layers needs k of at least 1, got {every}")
    found, last = set(), 0
    for var in bottlenecks(graph):
        if depth[var] - last >= every and settled(graph, var) is var:
            found.add(var)
            last = depth[var]
    return found


def _by_name(graph: DataflowGraph, names: Sequence[str]) -> set[relax.Var]:
    layers = {
        layer_name(call): var
        for var in graph.data
        if (call := convolution(graph.values.get(var))) is not None
    }
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise DecoupleError(
            f"shuffle after {unknown}: no such convolutions; expected some of {list(layers)}"
        )
    return {_past_sums(graph, settled(graph, layers[name])) for name in names}


def _past_sums(graph: DataflowGraph, var: relax.Var) -> relax.Var:
    while any(op_name(graph.values[user]) in _SUMS for user in graph.consumers[var]):
        if len(graph.consumers[var]) != 1:
            break
        var = settled(graph, graph.consumers[var][0])
    return var


def _before_a_convolution(graph: DataflowGraph, groups: int) -> set[relax.Var]:
    before: set[relax.Var] = set()
    classifiers = classifier_convolutions(graph)
    for var in reversed(graph.data):
        call = convolution(graph.values.get(var))
        mixes = call is not None and int(call.attrs.groups) in (1, groups)
        if var in before or (mixes and var not in classifiers):
            before.update(graph.data[var])
    return before
