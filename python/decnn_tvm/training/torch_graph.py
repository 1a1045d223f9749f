# SPDX-License-Identifier: Apache-2.0
"""A Relax function under translation to a graph of `torch.fx`.

Whatever depends on a data input has the batch along axis 0, of a size that Relax fixed and PyTorch
must not. So operators on data keep that axis open, and what would mix samples is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import tvm
from torch import fx, nn
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.passes.dataflow_graph import DataflowGraph

PRIVATE = "_decnn"
"""The submodule for what is no weight of the network: batch norms, dropout, wires, constants."""


class TorchGraph:
    """Nodes and modules of one network, under construction.

    Parameters
    ----------
    source : DataflowGraph
        The Relax function.
    weights : mapping from Var to str
        Its weights, and where they stand in `root`.
    root : nn.Module
        Holds the weights; gets the modules.
    momentum : float
        Of the running statistics of batch norms.
    """

    def __init__(
        self,
        source: DataflowGraph,
        weights: Mapping[relax.Var, str],
        root: nn.Module,
        momentum: float,
    ) -> None:
        self.source, self.root, self.momentum = source, root, momentum
        self.fx = fx.Graph()
        self.nodes: dict[relax.Var, fx.Node] = {}
        self._weights = dict(weights)
        self._private = nn.Module()
        root.add_module(PRIVATE, self._private)

    def is_data(self, expr: relax.Expr) -> bool:
        """Tell whether `expr` depends on an input, so that its axis 0 is the batch."""
        return isinstance(expr, relax.Var) and expr in self.source.data

    def operand(self, expr: relax.Expr) -> Any:
        """Return the node of a tensor, or the number that a scalar constant is."""
        if isinstance(expr, tvm.ir.GenericConst):
            return self._constant(expr.value.numpy())
        if not isinstance(expr, relax.Var):
            raise ModelError(f"can't train {expr!s:.80}: it is no tensor")
        if expr not in self.nodes:
            self.nodes[expr] = self.fx.get_attr(self._weights[expr])
        return self.nodes[expr]

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> fx.Node:
        """Add a call of a function."""
        return self.fx.call_function(function, args, options)

    def module(self, stem: str, module: nn.Module, *args: Any) -> fx.Node:
        """Add a module that holds no weight of the network, and a call of it."""
        return self.fx.call_module(self._add(stem, module), args)

    def _add(self, stem: str, module: nn.Module) -> str:
        name = f"{stem}{sum(1 for key in self._private._modules if key.startswith(stem))}"
        self._private.add_module(name, module)
        return f"{PRIVATE}.{name}"

    def _constant(self, value: Any) -> Any:
        if value.ndim == 0:
            return value.item()
        holder = nn.Module()
        tensor = torch.from_numpy(np.array(value))
        holder.register_buffer("value", tensor, persistent=False)
        return self.fx.get_attr(f"{self._add('constant', holder)}.value")
