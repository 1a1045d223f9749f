# SPDX-License-Identifier: Apache-2.0
"""A spread function as data: which value is computed in which stage, and what crosses stages."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.placement_inference import arguments, bindings_of, output_vars
from decnn_tvm.passes.value_ranges import is_non_negative
from decnn_tvm.passes.weights import inputs_of, is_call, static_shape, weight_vars
from decnn_tvm.passes.wire_encoding import (
    LEAST_ELEMENTS,
    Encoding,
    WireLimits,
    elements_per_scale,
)
from decnn_tvm.placement.shard import WeightShard, shard_from_json
from decnn_tvm.plan import (
    Host,
    Movement,
    Owned,
    Partial,
    Placement,
    Replicated,
    Sharded,
    Strategy,
    Strips,
    local_shape,
    placement_from_json,
)
from decnn_tvm.plan_placements import narrow_axis

REDISTRIBUTE = "decnn.redistribute"
# The part of a level that is in no band of rows; see `decnn_tvm.passes.split_rows`.
BODY = (1, 0)

logger = logging.getLogger(__name__)


def is_movement(expr: relax.Expr) -> bool:
    """Tell whether `expr` marks a movement."""
    return is_call(expr, "relax.call_pure_packed") and (
        getattr(expr.args[0], "global_symbol", None) == REDISTRIBUTE
    )


@dataclass(slots=True)
class StageGraph:
    """The values of a spread function by stage.

    Attributes
    ----------
    func : relax.Function
        The function that `PropagatePlacement` gave.
    wire : str
        Element type of exchanged activations; int8 stands for uint8 too.
    limits : mapping
        Calibrated magnitudes, for int8; a value that is not there has its scales per message.

    `level` counts the movements up to each variable, -1 for inputs; `readers` are the variables
    bound to what reads it, in order. `parts` orders what `SplitRows` made of a level, and `origins`
    names the whole tensor that a band was cut from; `ties` are pairs of values that should have
    the same channel block.
    """

    func: relax.Function
    wire: str
    limits: WireLimits = field(default_factory=dict)
    strategy: Strategy = field(init=False)
    groups: int = field(init=False)
    decoupled: bool = field(init=False)
    placements: dict[str, Placement] = field(init=False)
    shards: dict[str, WeightShard] = field(init=False)
    bound: dict[relax.Var, relax.Expr] = field(init=False)
    level: dict[relax.Var, int] = field(init=False)
    parts: dict[str, tuple[int, int]] = field(init=False)
    origins: dict[str, str] = field(init=False)
    ties: list[tuple[str, str]] = field(init=False)
    readers: dict[relax.Var, list[relax.Var]] = field(init=False)

    def __post_init__(self) -> None:
        attrs = self.func.attrs
        if attrs is None or "decnn.placement" not in attrs:
            raise PartitionError(
                "SplitStages: main has no placement: run PropagatePlacement first."
            )
        data = json.loads(str(attrs["decnn.placement"]))
        self.strategy = data["strategy"]
        self.groups, self.decoupled = data["groups"], data["decoupled"]
        self.placements = {n: placement_from_json(p) for n, p in data["values"].items()}
        self.shards = {n: shard_from_json(s) for n, s in data["weights"].items()}
        self.parts = {n: tuple(part) for n, part in data.get("parts", {}).items()}
        self.origins = data.get("origins", {})
        self.ties = [tuple(tie) for tie in data.get("ties", [])]
        self.bound = dict(bindings_of(self.func))
        self.level = dict.fromkeys(inputs_of(self.func), -1)
        for var, value in self.bound.items():
            levels = [self.level[v] for v in self.read_by(value)]
            self.level[var] = max(levels, default=0) + is_movement(value)
            owner = self.owner(var)
            if owner is not None:
                self.level[var] = owner
        self.readers = {var: [] for var in self.level}
        for var, value in self.bound.items():
            for source in dict.fromkeys(self.read_by(value)):
                self.readers[source].append(var)

    def read_by(self, value: relax.Expr) -> list[relax.Var]:
        """Return the activations that `value` reads."""
        if isinstance(value, relax.Call):
            return [a for a in arguments(value) if a in self.level]
        if isinstance(value, relax.Tuple):
            return list(value.fields)
        return [value.tuple_value] if isinstance(value, relax.TupleGetItem) else [value]

    def placement(self, var: relax.Var) -> Placement:
        """Return the placement of `var`."""
        return self.placements[var.name]

    def owner(self, var: relax.Var) -> int | None:
        """Return the group whose owner alone holds `var`, if there is one."""
        placement = self.placements.get(var.name)
        return placement.group if isinstance(placement, Owned) else None

    def movements(self) -> dict[relax.Var, relax.Var]:
        """Return for each variable that a movement binds its source."""
        return {v: e.args[1] for v, e in self.bound.items() if is_movement(e)}

    def outputs(self) -> list[relax.Var]:
        """Return what the function returns."""
        return output_vars(self.func)

    def stages(self) -> list[list[relax.Var]]:
        """Return the variables computed in each stage that computes any, in order."""
        members: dict[tuple[int, ...], list[relax.Var]] = {}
        for var, value in self.bound.items():
            if not is_movement(value) and isinstance(value, relax.Call | relax.TupleGetItem):
                key = (self.level[var], *self.parts.get(var.name, BODY))
                members.setdefault(key, []).append(var)
        return [members[key] for key in sorted(members)]

    def moved_on(self, source: relax.Var) -> bool:
        """Tell whether `source` came by a movement itself."""
        return source in self.bound and is_movement(self.bound[source])

    def integers(self, target: relax.Var) -> tuple[int, str] | None:
        """Return scaled axis and type of the movement to `target` as integers, if it may be so."""
        source = self.bound[target].args[1]
        ends = self.placement(source), self.placement(target)
        axis = narrow_axis(*ends, len(static_shape(source)))
        if axis is None or str(source.ty.dtype) != "float32":
            return None
        return axis, "uint8" if is_non_negative(source, self.bound) else "int8"

    def encoding(self, target: relax.Var) -> Encoding:
        """Return how the movement to `target` sends its value."""
        source = self.bound[target].args[1]
        if self.moved_on(source):
            return self.encoding(source)
        integers = self.integers(target)
        if integers is None:
            return Encoding(dtype=str(source.ty.dtype))
        if self.wire != "int8":
            return Encoding(dtype=self.wire)
        axis, dtype = integers
        limits = self.limits.get(self.origins.get(source.name, source.name))
        if limits is None and isinstance(placement := self.placement(source), Strips):
            axis = placement.axis  # nobody holds a whole channel to find its largest value
            if dtype == "int8" and getattr(self.placement(target), "padding", "") == "lowest":
                return Encoding(dtype="float32")  # rows that are not sent have no scale
        elements = elements_per_scale(static_shape(source), axis)
        if limits is None and elements < LEAST_ELEMENTS:
            logger.debug("%s has %d elements to a scale: float32", source.name, elements)
            return Encoding(dtype="float32")
        return Encoding(dtype=dtype, axis=axis, limits=limits)

    def sent_as(self, target: relax.Var) -> str:
        """Return the name of the value that the movement to `target` sends."""
        source = self.bound[target].args[1]
        dtype = self.encoding(target).dtype
        if self.moved_on(source) or dtype == str(source.ty.dtype):
            return str(source.name)
        return f"{source.name}.{dtype}"

    def movement(self, target: relax.Var) -> Movement:
        """Return the movement that binds `target`."""
        source = self.bound[target].args[1]
        return Movement(
            source=self.sent_as(target),
            target=str(target.name),
            kind=_kind(self.placement(source), self.placement(target)),
            wire=self.encoding(target).dtype,
        )

    def scale_placement(self, var: relax.Var, axis: int) -> Placement:
        """Return how the scales along `axis` of the value `var` are spread."""
        placement = self.placement(var)
        if isinstance(placement, Owned):
            return placement
        if isinstance(placement, Strips) and placement.axis == axis:
            return dataclasses.replace(placement, padding="zero")
        along = isinstance(placement, Sharded) and placement.axis == axis
        return placement if along else Replicated()

    def scale_movement(self, target: relax.Var) -> Movement | None:
        """Return the movement of the scales that the value of `target` brings, if it does."""
        encoding, source = self.encoding(target), self.bound[target].args[1]
        if not encoding.per_message or encoding.axis is None:
            return None
        ends = [self.scale_placement(var, encoding.axis) for var in (source, target)]
        return Movement(
            source=scale_name(self.sent_as(target)),
            target=scale_name(str(target.name)),
            kind=_kind(*ends),
            wire="float32",
        )

    def weights_read(self, variables: Iterable[relax.Var]) -> list[relax.Var]:
        """Return the weights that the values of `variables` read, in the function's order."""
        read = {
            arg.name
            for var in variables
            if isinstance(self.bound[var], relax.Call)
            for arg in arguments(self.bound[var])
            if isinstance(arg, relax.Var)
        }
        return [weight for weight in weight_vars(self.func) if weight.name in read]

    def local_shape(self, var: relax.Var, group_count: int) -> tuple[int, ...]:
        """Return the shape of `var` on a device with `group_count` groups."""
        return local_shape(static_shape(var), self.placement(var), group_count)


def scale_name(value: str) -> str:
    """Return the name of the scales of the value called so."""
    return f"{value}.scale"


def _kind(source: Placement, target: Placement) -> str:
    if isinstance(source, Host):
        return "input"
    if isinstance(target, Host):
        return "output"
    if isinstance(source, Replicated):
        return "local"
    if isinstance(source, Owned):
        return "point_to_point"
    if isinstance(source, Partial):
        return "reduce_scatter" if isinstance(target, Sharded | Strips) else "all_reduce"
    if isinstance(source, Strips) and isinstance(target, Strips):
        return "halo"
    return "all_to_all" if isinstance(target, Sharded | Strips) else "all_gather"
