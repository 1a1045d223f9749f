# SPDX-License-Identifier: Apache-2.0
"""Write ONNX networks layer by layer, with seeded random weights of sane scale.

Convolutions are drawn as by He et al., "Delving Deep into Rectifiers" (2015): variance ``gain /
fan_in`` with gain 2 after a ReLU and 1 after a linear layer, so activations neither explode nor
collapse. Batch norms get statistics and factors that differ per channel, so a test sees it when
one is dropped or applied to the wrong channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph under construction: its name and its shape without the batch."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of channels, or of features."""
        return self.shape[0]


class GraphBuilder:
    """Collect the nodes and weights of one network.

    Parameters
    ----------
    name : str
        Name of the graph.
    seed : int
        Seed of the weights.
    batch : int
        Batch size of the input.
    opset : int
        Version of the ONNX operator set, 9 or newer.
    """

    def __init__(self, name: str, *, seed: int, batch: int, opset: int) -> None:
        self.name = name
        self.batch = batch
        self.opset = opset
        self._random = np.random.default_rng(seed)
        self._inputs: list[Tensor] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, Weights] = {}

    def input(self, name: str, channels: int, size: int) -> Tensor:
        """Declare a square image input."""
        self._inputs.append(Tensor(name, (channels, size, size)))
        return self._inputs[-1]

    def weight(self, name: str, value: Weights) -> str:
        """Add an initializer."""
        assert name not in self._weights, name
        self._weights[name] = value
        return name

    def node(
        self, kind: str, inputs: Sequence[str], shape: tuple[int, ...], **attrs: Any
    ) -> Tensor:
        """Add a node with one output of `shape` (without the batch)."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attrs))
        return Tensor(f"{name}_out", shape)

    def conv(
        self,
        name: str,
        x: Tensor,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        gain: float = 2.0,
    ) -> Tensor:
        """Add a square convolution with the weights ``name.weight`` and, by choice, ``.bias``."""
        shape = (channels, x.channels // groups, kernel, kernel)
        names = [x.name, self.weight(f"{name}.weight", self._normal(shape, gain))]
        if bias:
            names.append(self.weight(f"{name}.bias", self._around(0.0, channels)))
        return self.node(
            "Conv",
            names,
            (channels, *(_pooled(n, kernel, stride, padding, False) for n in x.shape[1:])),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
            dilations=[1, 1],
            group=groups,
        )

    def batch_norm(
        self, name: str, x: Tensor, *, scale: float = 1.0, epsilon: float = 1e-5
    ) -> Tensor:
        """Add an inference batch norm whose factors lie around `scale`."""
        values = {
            "weight": scale * self._around(1.0, x.channels),
            "bias": scale * self._around(0.0, x.channels),
            "running_mean": self._around(0.0, x.channels),
            "running_var": self._random.uniform(0.8, 1.25, x.channels).astype("float32"),
        }
        names = [self.weight(f"{name}.{role}", value) for role, value in values.items()]
        return self.node("BatchNormalization", [x.name, *names], x.shape, epsilon=epsilon)

    def relu(self, x: Tensor) -> Tensor:
        """Add a ReLU."""
        return self.node("Relu", [x.name], x.shape)

    def relu6(self, x: Tensor) -> Tensor:
        """Add a clip to 0 to 6: attributes before opset 11, shared scalar inputs since."""
        if self.opset < 11:
            return self.node("Clip", [x.name], x.shape, min=0.0, max=6.0)
        self._weights.setdefault("relu6.min", np.array(0.0, "float32"))
        self._weights.setdefault("relu6.max", np.array(6.0, "float32"))
        return self.node("Clip", [x.name, "relu6.min", "relu6.max"], x.shape)

    def max_pool(
        self, x: Tensor, kernel: int, stride: int, padding: int = 0, *, ceil: bool = False
    ) -> Tensor:
        """Add a square max pooling; before opset 10 there is no rounding up."""
        ceil = ceil and self.opset >= 10
        shape = (x.channels, *(_pooled(n, kernel, stride, padding, ceil) for n in x.shape[1:]))
        attrs = {"ceil_mode": 1} if ceil else {}
        return self.node("MaxPool", [x.name], shape, **_window(kernel, stride, padding), **attrs)

    def average_pool(self, x: Tensor, kernel: int, stride: int, padding: int = 0) -> Tensor:
        """Add a square average pooling whose padding counts as values."""
        shape = (x.channels, *(_pooled(n, kernel, stride, padding, False) for n in x.shape[1:]))
        attrs = _window(kernel, stride, padding) | {"count_include_pad": 1}
        return self.node("AveragePool", [x.name], shape, **attrs)

    def global_average_pool(self, x: Tensor) -> Tensor:
        """Add the mean over all pixels."""
        return self.node("GlobalAveragePool", [x.name], (x.channels, 1, 1))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two tensors of one shape."""
        assert x.shape == y.shape, (x, y)
        return self.node("Add", [x.name, y.name], x.shape)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join tensors along their channels."""
        shape = (sum(part.channels for part in parts), *parts[0].shape[1:])
        return self.node("Concat", [part.name for part in parts], shape, axis=1)

    def flatten(self, x: Tensor) -> Tensor:
        """Turn channels and pixels into features."""
        return self.node("Flatten", [x.name], (int(np.prod(x.shape)),), axis=1)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Reshape what follows the batch."""
        target = f"shape_{'x'.join(map(str, shape))}"
        self._weights.setdefault(target, np.array([self.batch, *shape], "int64"))
        return self.node("Reshape", [x.name, target], shape)

    def channel_shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Interleave the channel groups: ShuffleNet's reshape, transpose, reshape."""
        channels, height, width = x.shape
        y = self.reshape(x, (groups, channels // groups, height, width))
        shape = (channels // groups, groups, height, width)
        y = self.node("Transpose", [y.name], shape, perm=[0, 2, 1, 3, 4])
        return self.reshape(y, x.shape)

    def linear(self, name: str, x: Tensor, features: int, *, gain: float = 1.0) -> Tensor:
        """Add a dense layer with ``name.weight`` of (features, inputs) and ``name.bias``.

        Its rows have mean zero: they ignore what all inputs have in common after a ReLU.
        """
        value = self._normal((features, x.channels), gain)
        weight = self.weight(f"{name}.weight", value - value.mean(axis=1, keepdims=True))
        bias = self.weight(f"{name}.bias", self._around(0.0, features))
        return self.node("Gemm", [x.name, weight, bias], (features,), transB=1)

    def model(self, *outputs: Tensor) -> onnx.ModelProto:
        """Return the checked model with these outputs, named ``output`` if it is one."""
        names = ["output"] if len(outputs) == 1 else [f"output{i}" for i in range(len(outputs))]
        for name, tensor in zip(names, outputs, strict=True):
            self._nodes.append(helper.make_node("Identity", [tensor.name], [name], name=name))
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [self._info(x.name, x.shape) for x in self._inputs],
            [self._info(n, x.shape) for n, x in zip(names, outputs, strict=True)],
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()],
        )
        opset = helper.make_opsetid("", self.opset)
        ir_version = max(4, helper.find_min_ir_version_for([opset]))
        model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)
        onnx.checker.check_model(model)
        return model

    def _info(self, name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *shape])

    def _normal(self, shape: tuple[int, ...], gain: float) -> Weights:
        deviation = np.sqrt(gain / np.prod(shape[1:]))
        return np.asarray(deviation * self._random.standard_normal(shape), "float32")

    def _around(self, centre: float, count: int) -> Weights:
        return np.asarray(centre + 0.1 * self._random.standard_normal(count), "float32")


def scaled(channels: int, width: float, multiple: int = 8) -> int:
    """Return `channels` times `width`, rounded to a positive multiple of `multiple`."""
    return max(multiple, round(channels * width / multiple) * multiple)


def _window(kernel: int, stride: int, padding: int) -> dict[str, Any]:
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}


def _pooled(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    span = size + 2 * padding - kernel
    assert span >= 0, f"a window of {kernel} over {size} pixels"
    steps = -(-span // stride) if ceil else span // stride
    # A window that would start in the padding behind the image does not count.
    return steps + (0 if ceil and steps * stride >= size + padding else 1)
