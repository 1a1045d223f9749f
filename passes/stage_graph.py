# SPDX-License-Identifier: Apache-2.0
"""A spread function as data: which value is computed in which stage, and what crosses stages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.placement_inference import arguments, bindings_of, output_vars
from decnn_tvm.passes.weights import inputs_of, is_call, static_shape, weight_vars
from decnn_tvm.placement.shard import WeightShard, shard_from_json
from decnn_tvm.plan import (
    Host,
    Movement,
    Partial,
    Placement,
    Replicated,
    Sharded,
    local_shape,
    placement_from_json,
)

REDISTRIBUTE = "decnn.redistribute"
_HOST = Host()


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
        Element type of exchanged activations.

    `level` is the stage of each variable, -1 for inputs; `readers` the variables bound to what
    reads it, in order.
    """

    func: relax.Function
    wire: str
    groups: int = field(init=False)
    decoupled: bool = field(init=False)
    placements: dict[str, Placement] = field(init=False)
    shards: dict[str, WeightShard] = field(init=False)
    bound: dict[relax.Var, relax.Expr] = field(init=False)
    level: dict[relax.Var, int] = field(init=False)
    readers: dict[relax.Var, list[relax.Var]] = field(init=False)

    def __post_init__(self) -> None:
        attrs = self.func.attrs
        if attrs is None or "decnn.placement" not in attrs:
            raise PartitionError(
                "SplitStages: main has no placement: run PropagatePlacement first."
            )
        data = json.loads(str(attrs["decnn.placement"]))
        self.groups, self.decoupled = data["groups"], data["decoupled"]
        self.placements = {n: placement_from_json(p) for n, p in data["values"].items()}
        self.shards = {n: shard_from_json(s) for n, s in data["weights"].items()}
        self.bound = dict(bindings_of(self.func))
        self.level = dict.fromkeys(inputs_of(self.func), -1)
        for var, value in self.bound.items():
            levels = [self.level[v] for v in self.read_by(value)]
            self.level[var] = max(levels, default=0) + is_movement(value)
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

    def movements(self) -> dict[relax.Var, relax.Var]:
        """Return for each variable that a movement binds its source."""
        return {v: e.args[1] for v, e in self.bound.items() if is_movement(e)}

    def outputs(self) -> list[relax.Var]:
        """Return what the function returns."""
        return output_vars(self.func)

    def stages(self) -> list[list[relax.Var]]:
        """Return the variables computed in each stage that computes any, in order."""
        members: dict[int, list[relax.Var]] = {}
        for var, value in self.bound.items():
            if not is_movement(value) and isinstance(value, relax.Call | relax.TupleGetItem):
                members.setdefault(self.level[var], []).append(var)
        return [members[level] for level in sorted(members)]

    def wire_dtype(self, target: relax.Var) -> str:
        """Return the element type in which the movement to `target` travels."""
        source = self.bound[target].args[1]
        own = str(source.ty.dtype)
        if source in self.bound and is_movement(self.bound[source]):
            return self.wire_dtype(source)
        fixed = Host | Partial | Replicated
        exact = isinstance(self.placement(source), fixed) or self.placement(target) == _HOST
        return own if exact or own != "float32" else self.wire

    def sent_as(self, target: relax.Var) -> str:
        """Return the name of the value that the movement to `target` sends."""
        source = self.bound[target].args[1]
        if source in self.bound and is_movement(self.bound[source]):
            return str(source.name)
        dtype = self.wire_dtype(target)
        name = str(source.name)
        return name if dtype == str(source.ty.dtype) else f"{name}.{dtype}"

    def movement(self, target: relax.Var) -> Movement:
        """Return the movement that binds `target`."""
        source = self.bound[target].args[1]
        kind = _kind(self.placement(source), self.placement(target))
        return Movement(source=self.sent_as(target), target=target.name, kind=kind)

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


def _kind(source: Placement, target: Placement) -> str:
    if isinstance(source, Host):
        return "input"
    if isinstance(target, Host):
        return "output"
    if isinstance(source, Replicated):
        return "local"
    if isinstance(source, Partial):
        return "reduce_scatter" if isinstance(target, Sharded) else "all_reduce"
    return "all_to_all" if isinstance(target, Sharded) else "all_gather"
