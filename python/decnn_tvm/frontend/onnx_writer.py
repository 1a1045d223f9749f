# SPDX-License-Identifier: Apache-2.0
"""Write a network to ONNX: the way back from Relax, which TVM itself does not have.

Weights become initializers under their own names. ``add(conv2d(x, w), reshape(b))`` becomes one
``Conv`` with a bias and ``add(matmul(x, permute_dims(w)), b)`` one ``Gemm``, so a network that came
from ONNX looks as it came, and loading the file again finds every weight under its name and shape.
The channel groups of a decoupled network stand in the metadata entry ``decnn.groups``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_graph import OnnxGraph
from decnn_tvm.frontend.onnx_operators import OPERATORS
from decnn_tvm.network import GROUPS_ATTR, Network, TensorInfo
from decnn_tvm.passes.weights import static_shape, weight_values, weight_vars

OPSET = 17


def save_onnx(network: Network, path: str | Path) -> None:
    """Write a network to an ONNX file.

    Raises
    ------
    ModelError
        If the network holds an operator that can't be written, or the file can't.
    """
    model = to_onnx(network)
    try:
        onnx.save(model, str(path))
    except OSError as error:
        raise ModelError(f"can't write {path}: {error}") from error


def to_onnx(network: Network) -> onnx.ModelProto:
    """Return a network as an ONNX model of opset 17.

    Raises
    ------
    ModelError
        If the network holds an operator that can't be written.
    """
    graph, outputs = _FunctionWriter(network).write()
    body = helper.make_graph(
        graph.nodes,
        network.name,
        [_value_info(info) for info in network.inputs],
        [_value_info(info) for info in outputs],
        graph.initializers(),
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        body,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
        producer_name="decnn-tvm",
    )
    if network.groups is not None:
        helper.set_model_props(model, {GROUPS_ATTR: str(network.groups)})
    onnx.checker.check_model(model)
    return model


class _FunctionWriter:
    def __init__(self, network: Network) -> None:
        self.func = network.function
        self.inputs, self.outputs = network.inputs, network.outputs
        values = weight_values(self.func)
        weights = {var: values[var.name] for var in weight_vars(self.func)}
        taken = [var.name for var in self.func.params] + [info.name for info in self.outputs]
        self.graph = OnnxGraph(taken, weights)
        for var, info in zip(self.func.params, self.inputs, strict=False):
            self.graph.names[var] = [info.name]
        bindings = [b for block in self.func.body.blocks for b in block.bindings]
        self.values = {binding.var: binding.value for binding in bindings}
        self.uses = Counter(
            var
            for expr in [*self.values.values(), self.func.body.body]
            for var in relax.analysis.free_vars(expr)
        )

    def write(self) -> tuple[OnnxGraph, tuple[TensorInfo, ...]]:
        for var, value in self.values.items():
            self.graph.names[var] = self._binding(var, value)
        result = self.func.body.body
        names = self._binding(result, result)
        for name, info in zip(names, self.outputs, strict=True):
            self.graph.node("Identity", [name], info.name)
        self.graph.prune([info.name for info in self.outputs])
        return self.graph, self.outputs

    def _binding(self, var: relax.Var, value: relax.Expr) -> list[str]:
        if isinstance(value, (relax.Var, tvm.ir.GenericConst)):
            return self._names_of(value)
        if isinstance(value, relax.Tuple):
            return [name for field in value.fields for name in self._names_of(field)]
        if isinstance(value, relax.TupleGetItem):
            names = self._names_of(value.tuple_value)
            if value.index < len(names):
                return [names[value.index]]
            return []  # updated statistics of a batch norm, an error only where they are read
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            return self._call(var, value)
        raise ModelError(f"can't write {value!s:.80} to ONNX: {type(value).__name__}")

    def _names_of(self, expr: relax.Expr) -> list[str]:
        if isinstance(expr, relax.Var) and expr in self.graph.names:
            return self.graph.names[expr]
        return [self.graph.operand(expr)]

    def _call(self, var: relax.Var, call: relax.Call) -> list[str]:
        write = OPERATORS.get(call.op.name)
        if write is None:
            raise ModelError(
                f"can't write the operator {call.op.name} to ONNX; known are "
                f"{', '.join(sorted(name.removeprefix('relax.') for name in OPERATORS))}"
            )
        if call.op.name == "relax.add" and (fused := self._biased(call)):
            return [fused]
        if call.op.name == "relax.matmul" and (gemm := self._gemm(call)):
            return [gemm]
        name = self.graph.fresh(var.name or "value")
        names = write(self.graph, call, name)
        return names if isinstance(names, list) else [name]

    def _biased(self, call: relax.Call) -> str | None:
        """Give the convolution or dense layer before an addition its bias."""
        for producer, bias in (call.args, list(call.args)[::-1]):
            weight = self._weight_behind(bias)
            inner = self.values.get(producer) if isinstance(producer, relax.Var) else None
            if weight is None or inner is None or self.uses[producer] != 1:
                continue
            node = self.graph.producer(self.graph.names[producer][0])
            if node is None or not self._fits(node, call, bias):
                continue
            if node.op_type == "MatMul":
                node.op_type = "Gemm"
            node.input.append(self.graph.weight(weight, [self.graph.weights[weight].size]))
            return str(node.output[0])
        return None

    def _fits(self, node: onnx.NodeProto, call: relax.Call, bias: relax.Expr) -> bool:
        if len(node.input) != 2:
            return False
        shape, extents = static_shape(call), static_shape(bias)
        axis = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}.get(node.op_type)
        if axis is None or (node.op_type == "MatMul" and not self._is_dense(node, shape)):
            return False
        if node.op_type in ("Gemm", "MatMul") and len(shape) != 2:
            return False
        aligned = (1,) * (len(shape) - len(extents)) + tuple(extents)
        expected = tuple(size if i == axis else 1 for i, size in enumerate(shape))
        return aligned == expected

    def _is_dense(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and node.input[1] in {var.name for var in self.graph.weights}

    def _gemm(self, call: relax.Call) -> str | None:
        """Write ``matmul(x, permute_dims(w))`` as a Gemm that reads the weight as it is."""
        data, factor = call.args
        inner = self.values.get(factor) if isinstance(factor, relax.Var) else None
        if len(data.ty.shape) != 2 or len(factor.ty.shape) != 2 or not _is_transpose(inner):
            return None
        assert inner is not None
        if inner.args[0] not in self.graph.weights:
            return None
        names = [self.graph.operand(data), self.graph.operand(inner.args[0])]
        return self.graph.node("Gemm", names, transB=1)

    def _weight_behind(self, expr: relax.Expr) -> relax.Var | None:
        """Return the weight that `expr` is, perhaps reshaped."""
        while isinstance(expr, relax.Var) and expr not in self.graph.weights:
            value = self.values.get(expr)
            if not isinstance(value, relax.Call) or value.op.name not in _RESHAPES:
                return None
            expr = value.args[0]
        return expr if isinstance(expr, relax.Var) else None


_RESHAPES = {"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"}


def _is_transpose(expr: relax.Expr | None) -> bool:
    if not isinstance(expr, relax.Call) or expr.op.name != "relax.permute_dims":
        return False
    axes = expr.attrs.axes
    return axes is None or [int(axis) % 2 for axis in axes] == [1, 0]


def _value_info(info: TensorInfo) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
    return helper.make_tensor_value_info(info.name, dtype, info.shape)
