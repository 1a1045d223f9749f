# SPDX-License-Identifier: Apache-2.0
"""Build one stage function on the local shapes of a device.

What arrives narrow is widened first, and what leaves narrow is rounded last, so that both fuse with
the kernels beside them.
"""

from __future__ import annotations

from tvm import relax

from decnn_tvm.passes.localize import is_renaming, localize
from decnn_tvm.passes.placement_inference import arguments, with_arguments
from decnn_tvm.passes.stage_graph import StageGraph, scale_name
from decnn_tvm.passes.wire_encoding import decode, encode, message_scale
from decnn_tvm.passes.wire_scales import inverse_name
from decnn_tvm.plan import Plan, Stage


class StageBuilder:
    """Builds one stage function.

    Parameters
    ----------
    graph : StageGraph
        The spread network.
    plan : Plan
        What `SplitStages` made of it.
    stage : Stage
        The stage of the plan.
    members : list of Var
        What it computes, in order.
    count : int
        Channel groups on the device.
    """

    def __init__(
        self, graph: StageGraph, plan: Plan, stage: Stage, members: list[relax.Var], count: int
    ) -> None:
        self.graph, self.plan, self.stage, self.members = graph, plan, stage, members
        self.count = count
        self.builder = relax.BlockBuilder()
        self.local: dict[str, relax.Expr] = {}
        # Movements by the name of what they send; several may send the same.
        self.carriers = {graph.sent_as(target): target for target in graph.movements()}
        self.variables = {var.name: var for var in graph.level}

    def build(self) -> relax.Function:
        """Return the function."""
        values = [self.plan.value(name) for name in self.stage.inputs]
        inputs = [self._param(v.name, v.local_shape(self.count), v.dtype) for v in values]
        self.local.update(zip(self.stage.inputs, inputs, strict=True))
        for name in self.stage.weights:
            weight = self.plan.weight(name)
            self.local[name] = self._param(name, weight.local_shape(self.count), weight.dtype)
        params = [*inputs, *(self.local[name] for name in self.stage.weights)]
        with self.builder.function(self.stage.function, params):
            with self.builder.dataflow():
                for name in self.stage.inputs:
                    self.local[name] = self._received(name)
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

    def _received(self, name: str) -> relax.Expr:
        """Return an input as it was before it was sent."""
        param, var = self.local[name], self.variables.get(name)
        if var is None or param.ty.dtype == var.ty.dtype:
            return param
        scale = self.local.get(scale_name(name))
        if scale is None:
            return self.builder.emit(relax.op.astype(param, var.ty.dtype))
        return decode(self.builder, param, scale, var.ty.dtype)

    def _sent(self, name: str) -> relax.Expr:
        """Return an output as it is sent; the scales of a message come after the message."""
        if name not in self.local:
            self._encode(name)
        return self.local[name]

    def _encode(self, name: str) -> None:
        target = self.carriers[name]
        encoding = self.graph.encoding(target)
        value = self.local[self.graph.bound[target].args[1].name]
        if encoding.axis is None:
            self.local[name] = self.builder.emit(relax.op.astype(value, encoding.dtype))
            return
        if encoding.is_static:
            inverse = self.local[inverse_name(name)]
        else:
            self.local[scale_name(name)], inverse = message_scale(self.builder, value, encoding)
        self.local[name] = encode(self.builder, value, inverse, encoding.dtype)

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
