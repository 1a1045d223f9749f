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
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from decnn_tvm.errors import PackageError
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

WIRE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("bool", "int8", "uint8"), 1),
        **dict.fromkeys(("float16", "int16", "uint16"), 2),
        **dict.fromkeys(("float32", "int32", "uint32"), 4),
        **dict.fromkeys(("float64", "int64", "uint64"), 8),
    }
)
"""Element types that a message may hold, and their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor at a stage boundary.

    Attributes
    ----------
    name : str
        Unique in the plan.
    shape : tuple of int
        Global logical shape (NCHW for activations), without padding.
    dtype : str
        Element type at the boundary, which is the type on the wire.
    placement : Placement
        How it is spread.
    block : int
        Channels per block of the boundary layout: the tensor is stored as
        ``(N, C/block, H, W, block)``; 1 is plain NCHW. Every transfer of channels starts and ends
        on a block, so in bytes a run of them is contiguous in either layout (for batch 1).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    placement: Placement
    block: int = 1

    def local_shape(self, group_count: int) -> tuple[int, ...]:
        """Logical shape on a device that holds it and owns `group_count` groups."""
        return local_shape(self.shape, self.placement, group_count)

    def physical_shape(self, group_count: int) -> tuple[int, ...]:
        """Shape of the stage function's argument on such a device."""
        shape = self.local_shape(group_count)
        if self.block == 1:
            return shape
        batch, channels, height, width = shape
        return (batch, channels // self.block, height, width, self.block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter of a stage function.

    Attributes
    ----------
    name : str
        The name in the source network, unique in the plan.
    shape : tuple of int
        Shape of one group's slice (of the whole tensor where it is replicated).
    dtype : str
        Element type.
    combine : {"replicate", "concat", "sum"}
        How a device with several groups joins their slices. "sum" marks an addend of a partial
        sum: one group holds the value, the others zeros.
    axis : int
        The axis of "concat".
    group : int, optional
        The only group whose owner has a weight of "replicate"; every device has it by default.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    combine: Literal["replicate", "concat", "sum"]
    axis: int = 0
    group: int | None = None

    def local_shape(self, group_count: int) -> tuple[int, ...]:
        """Shape on a device that owns `group_count` groups."""
        if self.combine != "concat":
            return self.shape
        shape = list(self.shape)
        shape[self.axis] *= group_count
        return tuple(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One call of compiled code: ``function(*inputs, *weights) -> outputs``, all value names.

    `group` is the group whose owner alone runs it; every device does where it is None.
    """

    function: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    group: int | None = None

    def runs_on(self, groups: Sequence[int]) -> bool:
        """Tell whether a device with these groups runs it."""
        return bool(groups) if self.group is None else self.group in groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A change of placement: `source` becomes `target`, another value with the same content.

    `kind` names the collective (input, output, all_to_all, all_gather, reduce_scatter,
    all_reduce, halo, point_to_point, local) for people; the transfers follow from the two
    placements alone. `wire` is the element type that travels, which both values have.
    """

    source: str
    target: str
    kind: str
    wire: str = "float32"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


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


def nbytes(value: Value, group_count: int) -> int:
    """Return the bytes of `value` on a device that holds it and owns `group_count` groups."""
    return math.prod(value.local_shape(group_count)) * WIRE_BYTES[value.dtype]
