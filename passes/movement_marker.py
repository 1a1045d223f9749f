# SPDX-License-Identifier: Apache-2.0
"""Write what a placement inference found into the function.

``y = conv2d(x, w)`` whose input must change placement becomes ``x' = redistribute(x); y =
conv2d(x', w)``. The marker ``call_pure_packed("decnn.redistribute", x)`` is the identity on the
whole tensor; the placements of its argument and result say who sends what to whom. The function
attribute ``decnn.placement`` holds, as JSON, the strategy, the placement of every variable and how
each weight is sliced. The function still computes the whole network: nothing is local yet.
"""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.placement_inference import (
    Inference,
    arguments,
    bindings_of,
    output_vars,
    route,
    with_arguments,
)
from decnn_tvm.passes.stage_graph import REDISTRIBUTE
from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    static_shape,
    unique_name,
    weight_values,
    weight_var,
    weight_vars,
    with_weights,
)
from decnn_tvm.placement.shard import REPLICATED, WeightShard, shard_to_json
from decnn_tvm.plan import Host, Placement, Strategy, placement_to_json


def with_movements(
    mod: tvm.IRModule,
    found: Inference,
    *,
    strategy: Strategy = "channels",
    decoupled: bool = False,
) -> tvm.IRModule:
    """Return `mod` with what was inferred of ``main`` written into it.

    Parameters
    ----------
    mod : IRModule
        With named weights, as `LiftWeights` leaves it.
    found : Inference
        The placements.
    strategy : str
        What a group is.
    decoupled : bool
        Whether the groups are those of the network's own group convolutions.
    """
    func = _Marker(mod["main"], found, strategy, decoupled).rewrite()
    result = mod.clone()
    result.update_func(result.get_global_var("main"), func)
    return result


class _Marker:
    """Writes a function again with markers, unique names and slices for its weights."""

    def __init__(
        self, func: relax.Function, found: Inference, strategy: Strategy, decoupled: bool
    ) -> None:
        self.func, self.found = func, found
        self.strategy, self.decoupled = strategy, decoupled
        self.builder = relax.BlockBuilder()
        self.new: dict[relax.Expr, relax.Expr] = {v: v for v in inputs_of(func)}
        self.moved: dict[tuple[relax.Var, Placement, str | None], relax.Var] = {}
        self.values: dict[str, Placement] = {v.name: Host() for v in inputs_of(func)}
        values = weight_values(func)
        self.source_weights = {v: values[v.name] for v in weight_vars(func)}
        self.weights: dict[tuple[str, str], relax.Var] = {}
        self.shards: dict[str, WeightShard] = {}
        self.kept: dict[relax.Var, Array] = {}

    def rewrite(self) -> relax.Function:
        inputs = inputs_of(self.func)
        with self.builder.function("main", [*inputs, *self.source_weights]):
            with self.builder.dataflow():
                for var, value in bindings_of(self.func):
                    self._bind(var, value)
                outputs = [self._output(v, i) for i, v in enumerate(output_vars(self.func))]
                result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
                result = self.builder.emit_output(result, name_hint="outputs")
            self.builder.emit_func_output(result)
        built = self.builder.finalize()["main"]
        marked = relax.Function(inputs, built.body, built.ret_ty, True, self.func.attrs)
        self.shards |= {v.name: REPLICATED for v in self.kept if v.name not in self.shards}
        return with_weights(marked, inputs, self.kept).with_attr(
            "decnn.placement", json.dumps(self._placements())
        )

    def _placements(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "groups": self.found.groups,
            "decoupled": self.decoupled,
            "values": {name: placement_to_json(p) for name, p in self.values.items()},
            "weights": {name: shard_to_json(shard) for name, shard in self.shards.items()},
            "reasons": {v.name: reason for v, reason in self.found.reasons.items()},
        }

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Call):
            self.new[var] = self._emit(var, self._call(var, value))
        elif isinstance(value, relax.TupleGetItem):
            source = self.new[value.tuple_value]
            self.new[var] = self._emit(var, relax.TupleGetItem(source, value.index))
        elif isinstance(value, relax.Var):
            self.new[var] = self.new.get(value, value)

    def _emit(self, var: relax.Var, expr: relax.Expr) -> relax.Var:
        stem = expr.op.name.split(".")[-1] if isinstance(expr, relax.Call) else "item"
        bound = self.builder.emit(expr, name_hint=unique_name(stem, self.values))
        self.values[bound.name] = self.found.placements[var]
        return bound

    def _call(self, var: relax.Var, call: relax.Call) -> relax.Call:
        decision = self.found.decisions[var]
        args = []
        for i, arg in enumerate(arguments(call)):
            if i in decision.operands:
                args.append(self._move(arg, decision.operands[i]))
            elif arg in self.source_weights:
                args.append(self._weight(arg, decision.weights.get(i, REPLICATED)))
            else:
                args.append(arg)
        return relax.Call(call.op, with_arguments(call, args), call.attrs, call.ty_args)

    def _output(self, var: relax.Var, index: int) -> relax.Var:
        """Move an output to the coordinator, under its own name where it has one."""
        attrs = self.func.attrs
        named = attrs is not None and "decnn.outputs" in attrs
        name = str(attrs["decnn.outputs"][index]) if named else None
        if var not in self.found.placements or not static_shape(var):
            what = "a scalar" if var in self.found.placements else "a constant"
            raise PartitionError(
                f"output {name or index} is {what}; expected a tensor with at least one axis that "
                "is computed from the inputs. Reshape it, or leave it out of the network."
            )
        return self._move(var, Host(), name)

    def _move(self, source: relax.Var, target: Placement, name: str | None = None) -> relax.Var:
        way = route(self.found.placements[source], target)
        if not way:
            return self.new[source]
        new = self.new[source] if len(way) == 1 else self._move(source, way[0])
        key = (source, target, name)
        if key not in self.moved:
            marker = relax.op.call_pure_packed(REDISTRIBUTE, new, ty_args=[new.ty])
            moved = self.builder.emit(
                marker, name_hint=unique_name(name or f"{new.name}_to", self.values)
            )
            self.values[moved.name] = target
            self.moved[key] = moved
        return self.moved[key]

    def _weight(self, source: relax.Var, shard: WeightShard) -> relax.Var:
        key = (source.name, repr(shard))
        if key not in self.weights:
            value = self.source_weights[source]
            var = weight_var(unique_name(source.name, self.shards), value)
            self.weights[key] = var
            self.shards[var.name] = shard
            self.kept[var] = value
        return self.weights[key]
