# SPDX-License-Identifier: Apache-2.0
"""Cut a spread network at its movements into stage functions for one device.

The result holds one Relax function per stage, on the local shapes of a device that owns
`groups_per_device` channel groups: ``stage0(inputs..., weights...)``. Function attributes:
``num_input``, and ``decnn.input_blocks`` / ``decnn.output_blocks``, the channel block of each
boundary tensor (see `Value.block`). Module attributes: ``decnn.plan``, the `Plan` as JSON, equal
for every `groups_per_device`; ``decnn.weights``, a map of weight names to one slice per channel
group (to a single tensor where it is replicated).

A value is in stage s if computing it takes s movements one after another, or if stage s of a
pipeline owns it; all movements between two stages run at the same time. Runs after
`PropagatePlacement`, `PropagateRows`, `CutPipeline` or `KeepWhole`. Exact but for what
`decnn_tvm.passes.wire_encoding` rounds.
"""

from __future__ import annotations

import json

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.stage_builder import StageBuilder
from decnn_tvm.passes.stage_graph import StageGraph
from decnn_tvm.passes.weights import Array, inputs_of, static_shape, weight_values
from decnn_tvm.passes.wire_encoding import WIRES, WireLimits, scale_shape
from decnn_tvm.passes.wire_scales import WireScales
from decnn_tvm.placement.boundary_blocks import with_blocks
from decnn_tvm.placement.shard import slice_weight
from decnn_tvm.plan import Host, Plan, Stage, Value, Weight
from decnn_tvm.schedules.blocks import preferred_block


@tvm.transform.module_pass(opt_level=0, name="decnn.SplitStages")
class SplitStages:
    """Cut ``main`` into stage functions for a device with some of the channel groups.

    Parameters
    ----------
    groups_per_device : int
        How many channel groups the device owns.
    wire : {"float32", "float16", "int8"}
        Element type of exchanged activations; partial sums and outputs stay float32. int8 stands
        for uint8 where no value is negative.
    model : str
        The name that the plan bears.
    limits : mapping of str to array, optional
        For int8: the largest magnitude of each channel of the exchanged values, by their names in
        ``main``. Values that are not there are scaled per message.

    Raises
    ------
    PartitionError
        No placement on ``main``, or more groups on a device than there are.
    """

    def __init__(
        self,
        *,
        groups_per_device: int = 1,
        wire: str = "float32",
        model: str = "main",
        limits: WireLimits | None = None,
    ) -> None:
        if wire not in WIRES:
            raise PartitionError(f"SplitStages: wire {wire!r}, expected one of {WIRES}.")
        self.groups_per_device = groups_per_device
        self.wire = wire
        self.model = model
        self.limits = limits or {}

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Replace ``main`` by its stages."""
        graph = StageGraph(mod["main"], self.wire, self.limits)
        if not 1 <= self.groups_per_device <= graph.groups:
            raise PartitionError(
                f"SplitStages: groups_per_device={self.groups_per_device}, but the network has "
                f"{graph.groups} channel groups. Pass a number from 1 to {graph.groups}."
            )
        planner = _Planner(graph, self.model)
        plan = planner.plan()
        functions = {
            stage.function: StageBuilder(graph, plan, stage, members, self.groups_per_device)
            .build()
            .with_attr("global_symbol", stage.function)
            for stage, members in zip(plan.stages, graph.stages(), strict=True)
        }
        kernels = {v: f for v, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
        slices = {**shard_weights(graph), **planner.scales.slices(graph.groups)}
        weights = {n: [tvm.runtime.tensor(s) for s in v] for n, v in slices.items()}
        return tvm.IRModule(functions | kernels).with_attrs(
            {"decnn.plan": json.dumps(plan.to_json()), "decnn.weights": weights}
        )


def plan_of(mod: tvm.IRModule) -> Plan:
    """Return the plan of a module that `SplitStages` gave."""
    if mod.attrs is None or "decnn.plan" not in mod.attrs:
        raise PartitionError("module: no plan there. Run SplitStages first.")
    return Plan.from_json(json.loads(str(mod.attrs["decnn.plan"])))


def shard_weights(graph: StageGraph) -> dict[str, list[Array]]:
    """Return one slice per channel group for every weight, one alone where it is replicated."""
    result = {}
    for name, value in weight_values(graph.func).items():
        shard = graph.shards[name]
        count = 1 if shard.combine == "replicate" else graph.groups
        result[name] = [slice_weight(value, shard, group) for group in range(count)]
    return result


class _Planner:
    """Derives the plan, which is the same for every number of groups on a device."""

    def __init__(self, graph: StageGraph, model: str) -> None:
        self.graph, self.model = graph, model
        self.moves = {target: graph.movement(target) for target in graph.movements()}
        moved = {target: graph.scale_movement(target) for target in self.moves}
        self.scale_moves = {target: move for target, move in moved.items() if move is not None}
        self.scales = WireScales(graph)

    def plan(self) -> Plan:
        graph = self.graph
        members = graph.stages()
        stages = tuple(self._stage(i, variables) for i, variables in enumerate(members))
        plan = Plan(
            model=self.model,
            groups=graph.groups,
            decoupled=graph.decoupled,
            inputs=tuple(v.name for v in inputs_of(graph.func)),
            outputs=tuple(v.name for v in graph.outputs()),
            values=tuple(self._values(stages)),
            weights=tuple(self._weights()),
            stages=stages,
            strategy=graph.strategy,
            movements=tuple(
                movement
                for target in self.moves
                for movement in (self.moves[target], self.scale_moves.get(target))
                if movement is not None
            ),
        )
        sent = {self.graph.bound[t].args[1].name: move.source for t, move in self.moves.items()}
        crossing = {value.name for value in plan.values}
        ties = [(one, sent.get(other, other)) for one, other in graph.ties]
        kept = [tie for tie in ties if crossing.issuperset(tie)]
        return with_blocks(plan, preferred_block, kept)

    def _stage(self, index: int, variables: list[relax.Var]) -> Stage:
        graph, inside = self.graph, set(variables)
        read = dict.fromkeys(
            v for m in variables for v in graph.read_by(graph.bound[m]) if v not in inside
        )
        inputs = [name for var in read for name in self._arrives_as(var)]
        outputs = dict.fromkeys(name for var in variables for name in self._leaves(var, inside))
        weights = [w.name for w in graph.weights_read(variables)]
        return Stage(
            function=f"stage{index}",
            inputs=tuple(inputs),
            weights=(*weights, *self.scales.read_by(inputs, outputs)),
            outputs=tuple(outputs),
            group=graph.owner(variables[0]),
        )

    def _arrives_as(self, var: relax.Var) -> list[str]:
        """Return the names under which `var` comes into a stage, its scales after it."""
        scales = [self.scale_moves[var].target] if var in self.scale_moves else []
        return [var.name, *scales]

    def _leaves(self, var: relax.Var, inside: set[relax.Var]) -> list[str]:
        """Return the names under which `var` leaves its stage."""
        names = []
        for user in self.graph.readers[var]:
            value = self.graph.bound[user]
            if user in self.moves:
                moves = (self.moves[user], self.scale_moves.get(user))
                names += [move.source for move in moves if move is not None]
            elif user not in inside and isinstance(value, relax.Call | relax.TupleGetItem):
                names.append(var.name)
        return names

    def _values(self, stages: tuple[Stage, ...]) -> list[Value]:
        graph = self.graph
        crossing = {n for s in stages for n in (*s.inputs, *s.outputs)}
        crossing |= {v.name for v in (*inputs_of(graph.func), *graph.outputs())}
        crossing |= {n for m in self.moves.values() for n in (m.source, m.target)}
        values: dict[str, Value] = {}
        for var in [*inputs_of(graph.func), *graph.bound]:
            placement = graph.placements.get(var.name, Host())
            for name, dtype in self._forms(var).items():
                if name in crossing:
                    shape = static_shape(var)
                    value = Value(name=name, shape=shape, dtype=dtype, placement=placement)
                    values[name] = value
        for target in self.scale_moves:
            values |= {value.name: value for value in self._scale_values(target)}
        return list(values.values())

    def _forms(self, var: relax.Var) -> dict[str, str]:
        """Return the names under which `var` may cross stages, with their element types."""
        own = self.moves[var].wire if var in self.moves else str(getattr(var.ty, "dtype", ""))
        sent = [self.moves[user] for user in self.graph.readers[var] if user in self.moves]
        return {var.name: own} | {move.source: move.wire for move in sent}

    def _scale_values(self, target: relax.Var) -> list[Value]:
        """Return both ends of the movement of the scales of `target`."""
        axis, move = self.graph.encoding(target).axis, self.scale_moves[target]
        assert axis is not None
        ends = {move.source: self.graph.bound[target].args[1], move.target: target}
        return [
            Value(
                name=name,
                shape=scale_shape(static_shape(var), axis),
                dtype=move.wire,
                placement=self.graph.scale_placement(var, axis),
            )
            for name, var in ends.items()
        ]

    def _weights(self) -> list[Weight]:
        result = []
        for name, value in weight_values(self.graph.func).items():
            shard = self.graph.shards[name]
            piece = slice_weight(value, shard, 0)
            result.append(
                Weight(
                    name=name,
                    shape=piece.shape,
                    dtype=str(piece.dtype),
                    combine=shard.combine,
                    axis=shard.axis,
                    group=shard.group,
                )
            )
        return [*result, *self.scales.weights()]
