# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph that `onnx_writer` fills: nodes, initializers and unique names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.passes.weights import Array


class OnnxGraph:
    """Nodes and initializers by name.

    Parameters
    ----------
    taken : sequence of str
        Names of inputs, weights and outputs, which no intermediate tensor may get.
    weights : dict of Var to array
        The weights of the function being written.
    """

    def __init__(self, taken: Sequence[str], weights: dict[relax.Var, Array]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = weights
        self.names: dict[relax.Var, list[str]] = {}
        self._initializers: dict[str, Array] = {}
        self._taken = set(taken)

    def fresh(self, stem: str) -> str:
        """Return `stem` with a suffix that makes it unique."""
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str | Sequence[str] | None = None,
        **attrs: Any,
    ) -> str:
        """Add a node and return its first output, named `output` or freshly."""
        if output is None:
            output = self.fresh(kind.lower())
        outputs = [output] if isinstance(output, str) else list(output)
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=f"{kind}/{outputs[0]}", **attrs)
        )
        return outputs[0]

    def constant(self, value: Any, dtype: str, stem: str = "constant") -> str:
        """Add an unnamed constant."""
        name = self.fresh(stem)
        self._initializers[name] = np.asarray(value, dtype)
        return name

    def operand(self, expr: relax.Expr) -> str:
        """Return the name of a tensor operand."""
        if isinstance(expr, tvm.ir.GenericConst):
            value = expr.value.numpy()
            return self.constant(value, str(value.dtype))
        if isinstance(expr, relax.Var) and expr in self.weights:
            return self.weight(expr, self.weights[expr].shape)
        if isinstance(expr, relax.Var) and expr in self.names:
            return self.names[expr][0]
        raise ModelError(f"can't write {expr!s:.80} to ONNX: an operand that is no single tensor")

    def weight(self, var: relax.Var, shape: Sequence[int]) -> str:
        """Add a weight under its own name, once, and return the name.

        A second use in another shape gets a name with a suffix.
        """
        value = self.weights[var].reshape(tuple(shape))
        known = self._initializers.get(var.name)
        name = str(var.name)
        if known is not None and known.shape != value.shape:
            name = self.fresh(f"{var.name}_{'x'.join(map(str, shape))}")
        self._initializers[name] = value
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a tensor."""
        return next((node for node in reversed(self.nodes) if name in node.output), None)

    def prune(self, outputs: Sequence[str]) -> None:
        """Drop nodes and initializers that do not reach these outputs."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self._initializers = {k: v for k, v in self._initializers.items() if k in needed}

    def initializers(self) -> list[onnx.TensorProto]:
        """Return the initializers."""
        return [
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            for name, value in self._initializers.items()
        ]
