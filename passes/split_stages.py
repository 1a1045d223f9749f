# SPDX-License-Identifier: Apache-2.0
"""Cut a spread network at its movements into stage functions for one device.

The result holds one Relax function per stage, on the local shapes of a device that owns
`groups_per_device` channel groups: ``stage0(inputs..., weights...)``. Function attributes:
``num_input``, and ``decnn.input_blocks`` / ``decnn.output_blocks``, the channel block of each
boundary tensor (see `Value.block`). Module attributes: ``decnn.plan``, the `Plan` as JSON, equal
for every `groups_per_device`; ``decnn.weights``, a map of weight names to one slice per channel
group (to a single tensor where it is replicated).

A value is in stage s if computing it takes s movements one after another; all movements between
two stages run at the same time. Runs after `PropagatePlacement`. Exact but for float16 wires.
"""

from __future__ import annotations

import json

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.localize import is_renaming, localize
from decnn_tvm.passes.placement_inference import arguments, with_arguments
from decnn_tvm.passes.stage_graph import StageGraph
from decnn_tvm.passes.weights import Array, inputs_of, static_shape, weight_values
from decnn_tvm.placement.boundary_blocks import with_blocks
from decnn_tvm.placement.shard import slice_weight
from decnn_tvm.plan import Host, Plan, Stage, Value, Weight
from decnn_tvm.schedules.blocks import preferred_block

WIRES = ("float32", "float16")


@tvm.transform.module_pass(opt_level=0, name="decnn.SplitStages")
class SplitStages:
    """Cut ``main`` into stage functions for a device with some of the channel groups.

    Parameters
    ----------
    groups_per_device : int
        How many channel groups the device owns.
    wire : {"float32", "float16"}
        Element type of exchanged activations; partial sums, inputs and outputs stay float32.
    model : str
        The name that the plan bears.

    Raises
    ------
    PartitionError
        No placement on ``main``, or more groups on a device than there are.
    """

    def __init__(
        self, *, groups_per_device: int = 1, wire: str = "float32", model: str = "main"
    ) -> None:
        if wire not in WIRES:
            raise PartitionError(f"SplitStages: wire {wire!r}, expected one of {WIRES}.")
        self.groups_per_device = groups_per_device
        self.wire = wire
        self.model = model

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Replace ``main`` by its stages."""
        graph = StageGraph(mod["main"], self.wire)
        if not 1 <= self.groups_per_device <= graph.groups:
            raise PartitionError(
                f"SplitStages: groups_per_device={self.groups_per_device}, but the network has "
                f"{graph.groups} channel groups. Pass a number from 1 to {graph.groups}."
            )
        plan = _Planner(graph, self.model).plan()
        functions = {
            stage.function: _StageBuilder(graph, plan, stage, members, self.groups_per_device)
            .build()
            .with_attr("global_symbol", stage.function)
            for stage, members in zip(plan.stages, graph.stages(), strict=True)
        }
        kernels = {v: f for v, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
        weights = {n: [tvm.runtime.tensor(s) for s in v] for n, v in shard_weights(graph).items()}
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
            movements=tuple(self.moves.values()),
        )
        return with_blocks(plan, preferred_block)

    def _stage(self, index: int, variables: list[relax.Var]) -> Stage:
        graph, inside = self.graph, set(variables)
        inputs = {
            v.name: None
            for m in variables
            for v in graph.read_by(graph.bound[m])
            if v not in inside
        }
        outputs = dict.fromkeys(name for var in variables for name in self._leaves(var, inside))
        return Stage(
            function=f"stage{index}",
            inputs=tuple(inputs),
            weights=tuple(w.name for w in graph.weights_read(variables)),
            outputs=tuple(outputs),
        )

    def _leaves(self, var: relax.Var, inside: set[relax.Var]) -> list[str]:
        """Return the names under which `var` leaves its stage."""
        names = []
        for user in self.graph.readers[var]:
            value = self.graph.bound[user]
            if user in self.moves:
                names.append(self.moves[user].source)
            elif user not in inside and isinstance(value, relax.Call | relax.TupleGetItem):
                names.append(var.name)
        return names

    def _values(self, stages: tuple[Stage, ...]) -> list[Value]:
        graph = self.graph
        crossing = {n for s in stages for n in (*s.inputs, *s.outputs)}
        crossing |= {v.name for v in (*inputs_of(graph.func), *graph.outputs())}
        crossing |= {n for m in self.moves.values() for n in (m.source, m.target)}
        dtypes = {t.name: graph.wire_dtype(t) for t in self.moves}
        values = []
        for var in [*inputs_of(graph.func), *graph.bound]:
            own = str(getattr(var.ty, "dtype", ""))
            placement = graph.placements.get(var.name, Host())
            for name, dtype in {
                var.name: dtypes.get(var.name, own),
                f"{var.name}.{graph.wire}": graph.wire,
            }.items():
                if name in crossing:
                    shape = static_shape(var)
                    values.append(Value(name=name, shape=shape, dtype=dtype, placement=placement))
        return values

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
                )
            )
        return result


class _StageBuilder:
    """Builds one stage function on local shapes."""

    def __init__(
        self, graph: StageGraph, plan: Plan, stage: Stage, members: list[relax.Var], count: int
    ) -> None:
        self.graph, self.plan, self.stage, self.members = graph, plan, stage, members
        self.count = count
        self.builder = relax.BlockBuilder()
        self.local: dict[str, relax.Expr] = {}

    def build(self) -> relax.Function:
        values = [self.plan.value(name) for name in self.stage.inputs]
        inputs = [self._param(v.name, v.local_shape(self.count), v.dtype) for v in values]
        for name in self.stage.weights:
            weight = self.plan.weight(name)
            self.local[name] = self._param(name, weight.local_shape(self.count), weight.dtype)
        params = [*inputs, *(self.local[name] for name in self.stage.weights)]
        with self.builder.function(self.stage.function, params):
            with self.builder.dataflow():
                for value, param in zip(values, inputs, strict=True):
                    self.local[value.name] = self._received(value, param)
                for var in self.members:
                    self.local[var.name] = self._bind(var)
                outputs = [self._sent(name) for name in self.stage.outputs]
                result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
                result = self.builder.emit_output(result)
            self.builder.emit_func_output(result)
        blocks = {value.name: value.block for value in self.plan.values}
        func = self.builder.finalize()[self.stage.function]
        return (
            func.with_attr("num_input", len(inputs))
            .with_attr("decnn.input_blocks", [blocks[n] for n in self.stage.inputs])
            .with_attr("decnn.output_blocks", [blocks[n] for n in self.stage.outputs])
        )

    def _param(self, name: str, shape: tuple[int, ...], dtype: str) -> relax.Var:
        return relax.Var(name, relax.TensorType(shape, dtype))

    def _received(self, value: Value, param: relax.Var) -> relax.Expr:
        """Undo the cast of a wire narrower than the value that was sent."""
        own = next(str(v.ty.dtype) for v in self.graph.level if v.name == value.name)
        return param if own == value.dtype else self.builder.emit(relax.op.astype(param, own))

    def _sent(self, name: str) -> relax.Expr:
        if name in self.local:
            return self.local[name]
        stem, dtype = name.rsplit(".", 1)
        return self.builder.emit(relax.op.astype(self.local[stem], dtype))

    def _bind(self, var: relax.Var) -> relax.Expr:
        value = self.graph.bound[var]
        if isinstance(value, relax.TupleGetItem):
            item = relax.TupleGetItem(self.local[value.tuple_value.name], value.index)
            return self.builder.emit(item)
        args = [self._argument(arg) for arg in arguments(value)]
        first = next(iter(arguments(value)), None)
        operand = self.graph.placements.get(first.name) if isinstance(first, relax.Var) else None
        if is_renaming(value, operand):
            return args[0]
        args = with_arguments(value, args)
        is_tensor = isinstance(var.ty, relax.TensorType)
        shape = self.graph.local_shape(var, self.count) if is_tensor else ()
        return self.builder.emit(
            localize(value, args, operand, shape, self.builder, self.count), name_hint=var.name
        )

    def _argument(self, arg: relax.Expr) -> relax.Expr:
        return self.local[arg.name] if isinstance(arg, relax.Var) else arg
