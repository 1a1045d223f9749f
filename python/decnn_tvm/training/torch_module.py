# SPDX-License-Identifier: Apache-2.0
"""A network as a PyTorch module that can be trained; `trained_weights` leads back.

The graph that is trained is the graph that is compiled: every binding of the Relax function becomes
a node of a `torch.fx` graph, which generates plain PyTorch code (``print(module.code)``). So the
module is nothing special to PyTorch, as an interpreter would be: ``torch.compile``, autocast,
``channels_last``, ``deepcopy``, ``.to("cuda")`` and ``state_dict`` work.

Parameters and running statistics bear the names of the weights. Whatever else the module needs is
in its submodule `PRIVATE`, which holds nothing that ``state_dict`` would save but the ranges of
rounded exchanges (see `decnn_tvm.training.wire_rounding`).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import tvm
from torch import fx, nn
from tvm import relax

from decnn_tvm.errors import ModelError, TrainingError
from decnn_tvm.frontend.onnx_layers import ints
from decnn_tvm.network import Network
from decnn_tvm.passes.canonicalize_channel_selection import match_channel_shuffle
from decnn_tvm.passes.dataflow_graph import DataflowGraph, op_name, read_graph
from decnn_tvm.passes.weights import (
    inputs_of,
    static_shape,
    weight_values,
    weight_vars,
)
from decnn_tvm.training.exchanges import ExchangePoint, exchange_points
from decnn_tvm.training.torch_graph import TorchGraph
from decnn_tvm.training.torch_layers import channel_shuffle
from decnn_tvm.training.torch_operators import OPERATORS
from decnn_tvm.training.wire_rounding import Wire, WireRounding

_SOFTMAX = ("relax.nn.softmax", "relax.nn.log_softmax")


class Translation(NamedTuple):
    """A module, and the name of the node for each variable of the Relax function."""

    module: fx.GraphModule
    nodes: dict[relax.Var, str]


def to_torch(
    network: Network,
    *,
    dropout: float | Mapping[str, float] = 0.0,
    momentum: float = 0.1,
    wire: Wire = "float32",
    logits: bool = False,
) -> fx.GraphModule:
    """Return the network as a module that takes batches of any size.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    dropout : float or mapping from layer name to float
        Probability of dropping an input of a dense layer, in training: of all of them, or of those
        named. Importers drop what a model had.
    momentum : float
        Of the running statistics of batch norms, as in `torch.nn.BatchNorm2d`.
    wire : {"float32", "float16", "int8"}
        Round what devices exchange as these wires do, with straight-through gradients; int8 needs
        ranges, which training finds, or `calibrate_wires`.
    logits : bool
        Leave out a softmax that gives the output: losses such as cross entropy have their own.

    Returns
    -------
    fx.GraphModule
        In eval mode, with weights of its own.

    Raises
    ------
    ModelError
        An operator that can't be trained; the message names it and those that can.
    TrainingError
        An unknown wire, a layer to drop from that is no dense layer, or no such layer at all.
    """
    options = {"dropout": dropout, "momentum": momentum, "wire": wire, "logits": logits}
    return translate(network, **options).module  # type: ignore[arg-type]


def translate(
    network: Network,
    *,
    dropout: float | Mapping[str, float] = 0.0,
    momentum: float = 0.1,
    wire: Wire = "float32",
    logits: bool = False,
) -> Translation:
    """Return the module of `to_torch` with the names of its nodes."""
    source = read_graph(network.function)
    root = nn.Module()
    names = _place_weights(root, source)
    graph = TorchGraph(source, names, root, momentum)
    rounded = exchange_points(network) if wire != "float32" else {}
    translator = _Translator(graph, _dropout_by_layer(source, dropout), rounded, wire)
    translator.translate(logits=logits)
    module = fx.GraphModule(root, graph.fx, "Network")
    kept = {node.name for node in module.graph.nodes}
    nodes = {
        var: node.name
        for var, node in graph.nodes.items()
        if isinstance(node, fx.Node) and node.name in kept
    }
    return Translation(module.eval(), nodes)


def dense_layers(graph: DataflowGraph) -> dict[relax.Var, str]:
    """Return the dense layers (a product of data and a weight) and their names."""
    found = {}
    for var in graph.data:
        call = graph.call(var, "relax.matmul")
        if call is not None and len(graph.data[var]) == 1:
            weight = call.args[1]
            while op_name(graph.values.get(weight)) in ("relax.permute_dims", "relax.reshape"):
                weight = graph.values[weight].args[0]
            found[var] = str(getattr(weight, "name", var.name)).removesuffix(".weight")
    return found


def _place_weights(root: nn.Module, source: DataflowGraph) -> dict[relax.Var, str]:
    """Give `root` a parameter or buffer for each weight, under the weight's own name."""
    statistics = {
        arg
        for value in source.values.values()
        if op_name(value) == "relax.nn.batch_norm"
        for arg in value.args[3:]
    }
    values = weight_values(source.func)
    names = {}
    for var in weight_vars(source.func):
        path, _, last = str(var.name).rpartition(".")
        tensor = torch.from_numpy(np.array(values[var.name]))
        try:
            holder = _submodule(root, path)
            if var in statistics:
                holder.register_buffer(last, tensor)
            else:
                holder.register_parameter(last, nn.Parameter(tensor))
        except (KeyError, AttributeError) as error:
            raise ModelError(
                f"can't train: PyTorch takes no weight of the name {var.name!r} ({error}); "
                "rename it in the model"
            ) from error
        names[var] = str(var.name)
    return names


def _submodule(root: nn.Module, path: str) -> nn.Module:
    holder = root
    for part in path.split(".") if path else []:
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    return holder


def _dropout_by_layer(
    source: DataflowGraph, dropout: float | Mapping[str, float]
) -> dict[relax.Var, float]:
    layers = dense_layers(source)
    if dropout and not layers:
        raise TrainingError(
            f"dropout {dropout}: the network has no dense layer to drop inputs of; leave it out"
        )
    if not isinstance(dropout, Mapping):
        dropout = dict.fromkeys(layers.values(), dropout) if dropout else {}
    unknown = sorted(set(dropout) - set(layers.values()))
    if unknown:
        raise TrainingError(
            f"dropout before {unknown}: no such dense layers; expected some of "
            f"{list(layers.values())}"
        )
    for name, probability in dropout.items():
        if not 0 <= probability < 1:
            raise TrainingError(
                f"dropout {probability} before {name!r}: expected a probability, 0 to below 1"
            )
    return {var: dropout[name] for var, name in layers.items() if dropout.get(name)}


class _Translator:
    """Writes the bindings of a function, one by one."""

    def __init__(
        self,
        graph: TorchGraph,
        dropout: Mapping[relax.Var, float],
        rounded: Mapping[relax.Var, ExchangePoint],
        wire: Wire,
    ) -> None:
        self.graph, self.dropout, self.rounded, self.wire = graph, dropout, rounded, wire
        self.source = graph.source
        self.dropped: dict[relax.Var, fx.Node] = {}

    def translate(self, *, logits: bool) -> None:
        """Write all, and leave out a softmax at the end if `logits` are wanted."""
        for var in inputs_of(self.source.func):
            name = "".join(c if c.isalnum() else "_" for c in str(var.name))
            self.graph.nodes[var] = self.graph.fx.placeholder(f"x_{name}")
        for var, value in self.source.values.items():
            node = self._binding(var, value)
            self.graph.nodes[var] = node
            if var in self.rounded:
                self.graph.nodes[var] = self._rounded(var, node)
        result = self.source.func.body.body
        if logits:
            while op_name(self.source.values.get(result)) in _SOFTMAX:
                result = self.source.values[result].args[0]
        self.graph.fx.output(self._result(result))
        for node in reversed(self.graph.fx.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.fx.erase_node(node)

    def _result(self, expr: relax.Expr) -> Any:
        bound = self.source.values.get(expr)
        if isinstance(bound, relax.Tuple):
            expr = bound
        if isinstance(expr, relax.Tuple):
            return tuple(self.graph.operand(field) for field in expr.fields)
        return self.graph.operand(expr)

    def _binding(self, var: relax.Var, value: relax.Expr) -> Any:
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            return self.graph.operand(value)
        if isinstance(value, relax.Tuple):
            return None  # only ever returned, or the parts of a concatenation
        if isinstance(value, relax.TupleGetItem):
            return self._item(value)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            return self._call(var, value)
        raise ModelError(f"can't train {value!s:.80}: {type(value).__name__}")

    def _item(self, item: relax.TupleGetItem) -> Any:
        source = self.graph.operand(item.tuple_value)
        if op_name(self.source.values.get(item.tuple_value)) != "relax.nn.batch_norm":
            return self.graph.call(operator.getitem, source, int(item.index))
        if item.index == 0:
            return source
        return None  # updated statistics, which PyTorch keeps itself

    def _call(self, var: relax.Var, call: relax.Call) -> fx.Node:
        permutation = match_channel_shuffle(call, self.source.values)
        if permutation is not None:
            first = self.source.values[self.source.values[call.args[0]].args[0]]
            rows = ints(static_shape(first))[1]
            return self.graph.call(channel_shuffle, self.graph.operand(first.args[0]), rows)
        write = OPERATORS.get(call.op.name)
        if write is None:
            known = ", ".join(sorted(name.removeprefix("relax.") for name in OPERATORS))
            raise ModelError(
                f"can't train the operator {call.op.name} ({var.name}); known are {known}"
            )
        if var in self.dropout:
            return self._with_dropout(var, call, write)
        return write(self.graph, call)

    def _with_dropout(self, var: relax.Var, call: relax.Call, write: Any) -> fx.Node:
        data = call.args[0]
        whole = self.graph.operand(data)
        self.graph.nodes[data] = self.graph.module("dropout", nn.Dropout(self.dropout[var]), whole)
        node: fx.Node = write(self.graph, call)
        self.graph.nodes[data] = whole
        return node

    def _rounded(self, var: relax.Var, node: fx.Node) -> fx.Node:
        axis, signed = self.rounded[var]
        rounding = WireRounding(self.wire, static_shape(var)[axis], axis, signed=signed)
        return self.graph.module("wire", rounding, node)
