# SPDX-License-Identifier: Apache-2.0
"""What a stage of a plan holds, in words: its layers, and how its tensors are placed."""

from __future__ import annotations

from decnn_tvm.plan import (
    PAD,
    Host,
    Indices,
    Owned,
    Partial,
    Plan,
    Replicated,
    Sharded,
    Stage,
    Value,
    held,
)


def layers_of(plan: Plan, stage: Stage) -> list[str]:
    """Return a stage's layers, which go by the names of their weights; biases tell no others."""
    names = [
        weight.name.removesuffix("weight").rstrip("._") or weight.name
        for weight in map(plan.weight, stage.weights)
        if weight.name.endswith("weight") or sum(extent > 1 for extent in weight.shape) > 1
    ]
    return list(dict.fromkeys(names))


def heading(plan: Plan, stage: Stage) -> str:
    """Return a stage's number with its first and its last layer."""
    layers = layers_of(plan, stage)
    ends = list(dict.fromkeys([*layers[:1], *layers[-1:]])) or ["no weights"]
    return f"{stage.function.removeprefix('stage')}: {' … '.join(ends)}"


def details(plan: Plan, stage: Stage, groups: Indices) -> str:
    """Return a line of a stage's layers and two of the tensors that a device with `groups` has."""
    layers = ", ".join(layers_of(plan, stage)) or "none with weights"
    lines = [f"layers: {layers}"]
    for word, names in (("takes", stage.inputs), ("gives", stage.outputs)):
        tensors = (plan.value(name) for name in dict.fromkeys(names))
        lines.append(f"{word}: {', '.join(f'{v.name} ({placed(v, groups)})' for v in tensors)}")
    return "\n".join(lines)


def placed(value: Value, groups: Indices) -> str:
    """Return what a device with some groups, at least one, holds of a tensor."""
    placement = value.placement
    if isinstance(placement, Host):
        return "at the coordinator"
    if isinstance(placement, Replicated):
        return "whole, as on every device that works on the sample"
    if isinstance(placement, Partial):
        return "one of the sums that it is added up from"
    if isinstance(placement, Owned):
        return "whole, on this device alone"
    extent = value.shape[placement.axis]
    own = sorted({*held(placement, extent, groups)} - {PAD})
    if isinstance(placement, Sharded):
        return f"{len(own)} of {extent} channels"
    return f"rows {own[0]} to {own[-1]} of {extent}" if own else f"none of {extent} rows"
