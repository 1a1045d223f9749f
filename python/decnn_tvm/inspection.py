# SPDX-License-Identifier: Apache-2.0
"""What a network is made of: layers, cost, and which convolutions can be decoupled.

Counted without running anything. One multiply-accumulate (MAC) is one weight times one value, so a
convolution costs ``N O H W * I/G * KH * KW`` and a dense layer ``N * inputs * outputs``; other
layers count as none. Bytes of activations are those of a layer's output.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.network import Network, TensorInfo
from decnn_tvm.passes.multiply_accumulates import WEIGHTED, multiply_accumulates
from decnn_tvm.passes.weights import static_shape, weight_vars

_STEM_CHANNELS = 4  # images have 1, 3 or 4 channels


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One layer.

    Attributes
    ----------
    name : str
        Name of its weights without the ending, or kind and number where it has none.
    kind : str
        The operator, such as ``conv2d``, ``dense`` or ``nn.relu``.
    shape : tuple of int
        Shape of the output.
    macs : int
        Multiply-accumulates.
    parameters : int
        Numbers in its weights, statistics of batch norms included.
    activation_bytes : int
        Size of the output.
    groups : int
        Groups of a convolution, else 1.
    can_decouple : bool
        Whether it can become a group convolution.
    reason : str
        Why not; empty if it can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    activation_bytes: int
    groups: int
    can_decouple: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A network's inputs, outputs and layers; see `inspect_network`."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    groups: int | None
    layers: tuple[LayerInfo, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes that all layers write in one run."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def largest_activation_bytes(self) -> int:
        """Bytes of the largest output of a layer."""
        return max((layer.activation_bytes for layer in self.layers), default=0)

    def to_json(self) -> str:
        """Return all of it, totals included, as JSON."""
        totals = {
            "macs": self.macs,
            "parameters": self.parameters,
            "activation_bytes": self.activation_bytes,
            "largest_activation_bytes": self.largest_activation_bytes,
        }
        return json.dumps(dataclasses.asdict(self) | {"totals": totals}, indent=2)


def inspect_network(network: Network, *, groups: int = 4) -> Inspection:
    """Describe a network.

    Parameters
    ----------
    network : Network
        The network.
    groups : int
        Number of channel groups for which `LayerInfo.can_decouple` answers.
    """
    return Inspection(
        name=network.name,
        inputs=network.inputs,
        outputs=network.outputs,
        groups=network.groups,
        layers=tuple(_Inspector(network.function, groups).layers()),
    )


class _Inspector:
    def __init__(self, func: relax.Function, groups: int) -> None:
        self.groups = groups
        self.weights = set(weight_vars(func))
        self.values = {b.var: b.value for block in func.body.blocks for b in block.bindings}
        self.followed = self._followed_by_layers()
        self.counted: set[relax.Var] = set()

    def layers(self) -> list[LayerInfo]:
        found: list[LayerInfo] = []
        for var, value in self.values.items():
            if isinstance(value, relax.Call) and not self._is_constant(value):
                found.append(self._layer(var, value, len(found)))
        return found

    def _layer(self, var: relax.Var, call: relax.Call, index: int) -> LayerInfo:
        operator = call.op.name if isinstance(call.op, tvm.ir.Op) else str(call.op)
        kind = WEIGHTED.get(operator, operator.removeprefix("relax."))
        groups = int(call.attrs.groups) if hasattr(call.attrs, "groups") else 1
        weights = self._new_weights(call)
        outputs = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        if kind == "nn.batch_norm":  # the rest are unchanged statistics
            outputs = outputs[:1]
        reason = self._obstacle(var, call, kind, groups)
        return LayerInfo(
            name=_name(weights) or f"{kind.rpartition('.')[2]}_{index}",
            kind=kind,
            shape=tuple(int(extent) for extent in outputs[0].shape),
            macs=multiply_accumulates(call),
            parameters=sum(math.prod(static_shape(weight)) for weight in weights),
            activation_bytes=sum(_bytes(ty) for ty in outputs),
            groups=groups,
            can_decouple=not reason,
            reason=reason,
        )

    def _obstacle(self, var: relax.Var, call: relax.Call, kind: str, groups: int) -> str:
        if kind == "dense":
            return "dense layer: split by input features instead"
        if kind != "conv2d":
            return "no convolution"
        inputs = int(call.args[0].ty.shape[1])
        outputs = int(call.args[1].ty.shape[0])
        if groups > 1:
            return "depthwise" if groups == inputs else f"already grouped ({groups} groups)"
        if inputs <= _STEM_CHANNELS:
            return f"stem: {inputs} input channels"
        if var not in self.followed:
            return "classifier: no layer with weights follows"
        for count, side in ((inputs, "input"), (outputs, "output")):
            if count % self.groups:
                return f"{count} {side} channels are not divisible by {self.groups}"
        return ""

    def _followed_by_layers(self) -> set[relax.Var]:
        """Return the values on which a convolution or dense layer depends."""
        followed: set[relax.Var] = set()
        for var, value in reversed(self.values.items()):
            weighted = isinstance(value, relax.Call) and _operator(value) in WEIGHTED
            if weighted or var in followed:
                followed.update(relax.analysis.free_vars(value))
        return followed

    def _is_constant(self, call: relax.Call) -> bool:
        """Tell whether a call reads weights alone, such as the transpose of a dense layer's."""
        return all(self._weight_behind(arg) is not None for arg in _tensors(call))

    def _new_weights(self, call: relax.Call) -> list[relax.Var]:
        """Return the weights that a call reads, each for the first call that reads it only."""
        found = [self._weight_behind(arg) for arg in _tensors(call)]
        new = [weight for weight in found if weight is not None and weight not in self.counted]
        self.counted.update(new)
        return new

    def _weight_behind(self, expr: relax.Expr) -> relax.Var | None:
        while isinstance(expr, relax.Var) and expr not in self.weights:
            value = self.values.get(expr)
            if not isinstance(value, relax.Call) or len(_tensors(value)) != 1:
                return None
            expr = _tensors(value)[0]
        return expr if isinstance(expr, relax.Var) else None


def _operator(call: relax.Call) -> str:
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""


def _tensors(call: relax.Call) -> list[relax.Expr]:
    args = [
        field
        for arg in call.args
        for field in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
    ]
    return [arg for arg in args if isinstance(arg, relax.Expr) and _is_data(arg)]


def _is_data(expr: relax.Expr) -> bool:
    return isinstance(expr, relax.Var) or isinstance(expr.ty, relax.TensorType)


def _name(weights: list[relax.Var]) -> str:
    return str(weights[0].name).removesuffix(".weight") if weights else ""


def _bytes(ty: relax.TensorType) -> int:
    return math.prod(int(extent) for extent in ty.shape) * np.dtype(str(ty.dtype)).itemsize
