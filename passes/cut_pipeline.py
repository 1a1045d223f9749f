# SPDX-License-Identifier: Apache-2.0
"""Cut a network into the stages of a pipeline, each for the owner of one group.

Bindings keep their order, and each belongs to one stage::

    y = relu(conv(x, w))     stage 0      x0 = redistribute(x)    host to 0
    z = conv(y, v)           stage 1      y1 = redistribute(y)    0 to 1

A tensor goes from the stage that computes it straight to each later one that reads it, so a
residual connection over several stages does not pass through those between. Weights belong to the
stage that reads them. Stages are cut where their estimated load balances (`pipeline_cuts`), before
a layer that is no elementwise operator, so that kernels keep their epilogues. Exact: nothing is
computed otherwise. What is written into the function is in `decnn_tvm.passes.movement_marker`. Runs
where `PropagatePlacement` would.
"""

from __future__ import annotations

import itertools
import math

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.channel_blocks import ELEMENTWISE
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.movement_marker import with_movements
from decnn_tvm.passes.multiply_accumulates import multiply_accumulates
from decnn_tvm.passes.pipeline_cuts import choose_cuts
from decnn_tvm.passes.placement_inference import Inference, arguments, bindings_of, output_vars
from decnn_tvm.passes.placement_rules import Decision
from decnn_tvm.passes.weights import inputs_of, static_shape, weight_vars
from decnn_tvm.placement.shard import WeightShard
from decnn_tvm.plan import WIRE_BYTES, Host, Owned


@tvm.transform.module_pass(opt_level=0, name="decnn.CutPipeline")
class CutPipeline:
    """Give every layer of ``main`` to one stage of a pipeline.

    Parameters
    ----------
    stages : int
        How many stages, at least 1.

    Raises
    ------
    PartitionError
        Less than one stage, or more than the network can be cut into.
    """

    def __init__(self, *, stages: int) -> None:
        if stages < 1:
            raise PartitionError(f"CutPipeline: stages={stages}; expected at least 1.")
        self.stages = stages

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        lifted = LiftWeights()(mod)  # type: ignore[operator]
        found = _Cutter(lifted["main"], self.stages).infer()
        return with_movements(lifted, found, strategy="pipeline")


class _Cutter:
    """Decides the stage of every binding."""

    def __init__(self, func: relax.Function, stages: int) -> None:
        self.func, self.stages = func, stages
        self.weights = set(weight_vars(func))
        self.bound = [
            (var, value)
            for var, value in bindings_of(func)
            if isinstance(value, relax.Call | relax.TupleGetItem)
        ]
        # Where a tensor is read the last time, its other names included.
        self.names = {v: e for v, e in bindings_of(func) if isinstance(e, relax.Var)}
        self.last = {
            read: place
            for place, (_, value) in enumerate(self.bound)
            for read in self._reads(value)
        }

    def infer(self) -> Inference:
        """Return the placements."""
        found = Inference(self.stages)
        found.placements |= {var: Host() for var in inputs_of(self.func)}
        cuts = self._cuts()
        for group, (start, end) in enumerate(itertools.pairwise(cuts)):
            for var, value in self.bound[start:end]:
                self._place(var, value, group, found)
        found.placements |= {name: found.placements[self._origin(name)] for name in self.names}
        for var in output_vars(self.func):
            if var in found.placements:
                found.movements.setdefault((var, Host()))
        return found

    def _place(self, var: relax.Var, value: relax.Expr, group: int, found: Inference) -> None:
        found.placements[var] = Owned(group)
        if not isinstance(value, relax.Call):
            return
        args = arguments(value)
        data = [self._origin(a) in found.placements for a in args]
        for arg in (a for a, is_data in zip(args, data, strict=True) if is_data):
            if found.placements[self._origin(arg)] != Owned(group):
                found.movements.setdefault((self._origin(arg), Owned(group)))
        found.decisions[var] = Decision(
            operands={i: Owned(group) for i, is_data in enumerate(data) if is_data},
            weights={i: WeightShard(group=group) for i, a in enumerate(args) if a in self.weights},
            result=Owned(group),
        )

    def _origin(self, expr: relax.Expr) -> relax.Expr:
        while expr in self.names:
            expr = self.names[expr]
        return expr

    def _reads(self, value: relax.Expr) -> list[relax.Expr]:
        args = arguments(value) if isinstance(value, relax.Call) else [value.tuple_value]
        return [self._origin(arg) for arg in args if isinstance(arg, relax.Var)]

    def _cuts(self) -> tuple[int, ...]:
        places = {place: self._crossing(place) for place in range(1, len(self.bound))}
        possible = {place: size for place, size in places.items() if size is not None}
        natural = {p: s for p, s in possible.items() if not _is_elementwise(self.bound[p][1])}
        chosen = natural if len(natural) >= self.stages - 1 else possible
        if len(chosen) < self.stages - 1:
            raise PartitionError(
                f"CutPipeline: {self.stages} stages asked for, but the network can be cut into "
                f"{len(possible) + 1} at most. Use fewer workers."
            )
        loads = [
            multiply_accumulates(value) if isinstance(value, relax.Call) else 0
            for _, value in self.bound
        ]
        return choose_cuts(loads, chosen, self.stages)

    def _crossing(self, place: int) -> int | None:
        """Return the bytes that are needed behind a cut; None where a tuple is among it."""
        size = 0
        for var in [*inputs_of(self.func), *(var for var, _ in self.bound[:place])]:
            if self.last.get(var, -1) < place:
                continue
            if not isinstance(var.ty, relax.TensorType):
                return None
            size += math.prod(static_shape(var)) * WIRE_BYTES.get(str(var.ty.dtype), 8)
        return size


def _is_elementwise(value: relax.Expr) -> bool:
    if not isinstance(value, relax.Call):
        return True
    return isinstance(value.op, tvm.ir.Op) and value.op.name in ELEMENTWISE
