# SPDX-License-Identifier: Apache-2.0
"""The plan: all that compiler and runtime share.

A plan says which tensors live between stages, how each is spread over *groups*, which stage
functions a device calls, and which movements carry tensors between them. It knows groups, not
devices: a device owns any subset of the groups, and `decnn_tvm.assignment` turns a plan and an
assignment of groups to devices into the transfers of each movement. So one plan, and one library
per number of groups, serve every number of devices. What a group is depends on the strategy:

==========  ==================  ====================================================================
strategy    a group is          and its owner computes
==========  ==================  ====================================================================
channels    a channel group     these channels of every layer
rows        a strip of rows     these rows of every feature map; a device's strips are neighbours
pipeline    a pipeline stage    these layers, the stages of the plan whose `Stage.group` it is
replicas    a turn              the whole network of one sample in every `Plan.groups`
single      everything          the whole network
==========  ==================  ====================================================================

Everything here is frozen data, saved as JSON; nothing imports TVM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from decnn_tvm.errors import PackageError
from decnn_tvm.plan_parts import WIRE_BYTES, Movement, Stage, Value, Weight, nbytes
from decnn_tvm.plan_placements import (
    PAD,
    Host,
    Indices,
    Owned,
    Partial,
    Placement,
    Replicated,
    Sharded,
    Strips,
    held,
    holds,
    local_shape,
    placement_from_json,
    placement_to_json,
)

__all__ = [
    "ONE_PROGRAM",
    "PAD",
    "STRATEGIES",
    "WIRE_BYTES",
    "Host",
    "Indices",
    "Movement",
    "Owned",
    "Partial",
    "Placement",
    "Plan",
    "Replicated",
    "Sharded",
    "Stage",
    "Strategy",
    "Strips",
    "Value",
    "Weight",
    "held",
    "holds",
    "local_shape",
    "nbytes",
    "placement_from_json",
    "placement_to_json",
]

Strategy: TypeAlias = Literal["channels", "rows", "pipeline", "replicas", "single"]

STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "channels": "channel groups",
        "rows": "row strips",
        "pipeline": "pipeline stages",
        "replicas": "turns",
        "single": "channel groups",
    }
)
"""The ways to use several devices, and what messages call the groups of each."""
ONE_PROGRAM = ("pipeline", "replicas", "single")
"""Those whose program is the same for any number of groups on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A network split by groups.

    `stages` stand in the order in which every device runs them. `decoupled` is true where the
    groups are those of the network's own group convolutions, so there can't be more devices.
    `strategy` says what a group is.
    """

    model: str
    groups: int
    decoupled: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: tuple[Value, ...]
    weights: tuple[Weight, ...]
    stages: tuple[Stage, ...]
    movements: tuple[Movement, ...]
    strategy: Strategy = "channels"

    @property
    def unit(self) -> str:
        """What messages call its groups, in the plural."""
        return STRATEGIES[self.strategy]

    def value(self, name: str) -> Value:
        """Return the value called `name`."""
        return next(v for v in self.values if v.name == name)

    def weight(self, name: str) -> Weight:
        """Return the weight called `name`."""
        return next(w for w in self.weights if w.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data."""
        data = dataclasses.asdict(self)
        for entry, value in zip(data["values"], self.values, strict=True):
            entry["placement"] = placement_to_json(value.placement)
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Plan:
        """Read what `to_json` wrote.

        Raises
        ------
        PackageError
            On a missing or unknown key, or a value of the wrong kind.
        """
        try:
            fields = dict(data)
            fields["values"] = tuple(_value_from_json(v) for v in data["values"])
            fields["weights"] = _records(Weight, data["weights"], ("shape",))
            fields["stages"] = _records(Stage, data["stages"], ("inputs", "weights", "outputs"))
            fields["movements"] = _records(Movement, data["movements"], ())
            fields["inputs"], fields["outputs"] = _tuple(data["inputs"]), _tuple(data["outputs"])
            plan = Plan(**fields)
            _check(plan)
            return plan
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(
                f"plan: unreadable ({type(error).__name__}: {error}). "
                "Compile the package again with this version of decnn-tvm."
            ) from error


def _records(cls: type[Any], entries: Iterable[dict[str, Any]], tuples: Sequence[str]) -> Any:
    return tuple(cls(**{**e, **{key: _tuple(e[key]) for key in tuples}}) for e in entries)


def _tuple(entries: Any) -> tuple[Any, ...]:
    if not isinstance(entries, list):
        raise TypeError(f"{entries!r} where a list is expected")
    return tuple(entries)


def _check(plan: Plan) -> None:
    """Raise ValueError where the parts of a plan do not fit each other."""
    if not isinstance(plan.groups, int) or plan.groups < 1:
        raise ValueError(f"groups {plan.groups!r}")
    if plan.strategy not in STRATEGIES:
        raise ValueError(f"strategy {plan.strategy!r}")
    values, weights = [v.name for v in plan.values], [w.name for w in plan.weights]
    for names in (values, weights):
        if len(set(names)) != len(names):
            raise ValueError(f"names are not unique: {names}")
    read = {n for s in plan.stages for n in (*s.inputs, *s.outputs)} | {*plan.inputs, *plan.outputs}
    read |= {n for m in plan.movements for n in (m.source, m.target)}
    read_weights = {n for s in plan.stages for n in s.weights}
    unknown = sorted((read - {*values}) | (read_weights - {*weights}))
    if unknown:
        raise ValueError(f"unknown names {unknown}")
    for value in plan.values:
        if value.dtype not in WIRE_BYTES:
            raise ValueError(f"{value.name!r} is of {value.dtype!r}")
        if isinstance(value.placement, Sharded) and len(value.placement.groups) != plan.groups:
            raise ValueError(f"{value.name!r} is not over {plan.groups} groups")
        if isinstance(value.placement, Owned) and not 0 <= value.placement.group < plan.groups:
            raise ValueError(f"{value.name!r} is owned by none of {plan.groups} groups")
    owners = {part.group for parts in (plan.stages, plan.weights) for part in parts} - {None}
    if not owners <= {*range(plan.groups)}:
        raise ValueError(f"stages or weights of the groups {owners}, of {plan.groups}")
    dtypes = {value.name: value.dtype for value in plan.values}
    for movement in plan.movements:
        if {dtypes[movement.source], dtypes[movement.target]} != {movement.wire}:
            raise ValueError(f"{movement} does not join two values of {movement.wire!r}")
    for weight in plan.weights:
        if weight.combine not in ("replicate", "concat", "sum"):
            raise ValueError(f"{weight.name!r} is joined by {weight.combine!r}")


def _value_from_json(entry: dict[str, Any]) -> Value:
    placement = placement_from_json(entry["placement"])
    return Value(**{**entry, "shape": _tuple(entry["shape"]), "placement": placement})
