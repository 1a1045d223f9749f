# SPDX-License-Identifier: Apache-2.0
"""Times of single layers while whole networks run: our kernels' and ONNX Runtime's.

A layer is told by its shapes, which both engines' instruments report.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tvm
from tvm import relax

from benchmarks.engines import Array, OnnxRuntime, device_part, in_blocks
from decnn_tvm.package import Package
from decnn_tvm.runtime.library import PACK_SUFFIX


class Layer(NamedTuple):
    """Shapes that tell a layer: a dense one has 1 x 1 pixels and kernels."""

    inputs: int
    height: int
    width: int
    outputs: int
    kernel: int
    stride: int
    groups: int

    @property
    def flops(self) -> float:
        """Floating-point operations, a multiply-add being two."""
        pixels = (self.height // self.stride) * (self.width // self.stride)
        return 2.0 * pixels * self.outputs * self.inputs / self.groups * self.kernel**2

    def __str__(self) -> str:
        groups = f" / {self.groups}" if self.groups > 1 else ""
        stride = f" s{self.stride}" if self.stride > 1 else ""
        pixels = f"{self.height}x{self.width}"
        return (
            f"{self.inputs}x{pixels} -> {self.outputs} {self.kernel}x{self.kernel}{stride}{groups}"
        )


Times = defaultdict[Layer, list[float]]
"""Seconds of a layer, summed over its places: one value per run of the network."""


def layer_of(data: Sequence[int], kernel: Sequence[int], result: Sequence[int]) -> Layer:
    """Return the layer with plain shapes: (N, C, H, W), (O, I, KH, KW) and (N, O, H', W')."""
    stride = round(data[2] / result[2])
    return Layer(data[1], data[2], data[3], result[1], kernel[2], stride, data[1] // kernel[1])


class OurKernels:
    """Times our kernels, with the instrument of TVM's virtual machine."""

    def __init__(self, package: Package, inputs: Sequence[Sequence[Array]]) -> None:
        plan = package.plan
        path, weights = device_part(package)
        self._vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        self._calls = []
        for stage, arrays in zip(plan.stages, in_blocks(plan, inputs), strict=True):
            tensors = [tvm.runtime.tensor(weights[name]) for name in stage.weights]
            packed = list(self._vm[stage.function + PACK_SUFFIX](tensors))
            given = [tvm.runtime.tensor(array) for array in arrays]
            self._calls.append((stage.function, [*given, *packed]))
        self.times: Times = defaultdict(list)
        self.places: Counter[Layer] = Counter()
        self.kernels: dict[Layer, str] = {}
        self.total: list[float] = []
        self._now: defaultdict[Layer, float] = defaultdict(float)
        self._start = 0.0
        self._vm.set_instrument(self._instrument)

    def run(self) -> None:
        """Run the network once."""
        self._now.clear()
        self.places.clear()
        start = time.perf_counter()
        for function, arguments in self._calls:
            self._vm[function](*arguments)
        self.total.append(time.perf_counter() - start)
        for layer, seconds in self._now.items():
            self.times[layer].append(seconds)

    def _instrument(self, _func: Any, name: str, before: bool, _result: Any, *args: Any) -> None:
        if before:
            self._start = time.perf_counter()
            return
        seconds = time.perf_counter() - self._start
        shapes = [tuple(map(int, arg.shape)) for arg in args if hasattr(arg, "shape")]
        layer = _ours(name, shapes)
        if layer is not None:
            self._now[layer] += seconds
            self.places[layer] += 1
            self.kernels[layer] = _method(name)


def _ours(name: str, shapes: Sequence[tuple[int, ...]]) -> Layer | None:
    """Return the layer of a kernel called `name` that reads and writes tensors of `shapes`."""
    if "dense" in name and "conv" not in name:
        outputs = shapes[-1][-1]
        return Layer(shapes[0][-1], 1, 1, outputs, 1, 1, 1)
    if "conv2d" not in name:
        return None
    data, weight, result = _plain(shapes[0]), shapes[1], _plain(shapes[-1])
    if "depthwise" in name:
        return layer_of(data, (data[1], 1, *weight[1:3]), result)
    if "winograd" in name:
        return layer_of(data, (result[1], weight[2] * weight[3], 3, 3), result)
    inner = weight[4] if len(weight) == 6 else 1
    return layer_of(data, (result[1], weight[1] * inner, *weight[2:4]), result)


def _method(name: str) -> str:
    return next((word for word in ("winograd", "depthwise", "conv2d") if word in name), "dense")


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[1] * shape[4], *shape[2:4]) if len(shape) == 5 else shape


def onnx_runtime_times(engine: OnnxRuntime, layers: Sequence[Layer]) -> Times:
    """Return the seconds of those of `layers` that a profiled engine's kernels are found to be."""
    known = {_rounded(layer): layer for layer in layers}
    runs: defaultdict[tuple[int, Layer], float] = defaultdict(float)
    for events in engine.profiles():
        seen: Counter[str] = Counter()
        for event in events:
            if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                continue
            found = _theirs(event["args"])
            layer = known.get(_rounded(found)) if found else None
            if layer is not None:
                runs[seen[event["name"]], layer] += event["dur"] / 1e6
            seen[event["name"]] += 1
    result: Times = defaultdict(list)
    for (_, layer), seconds in runs.items():
        result[layer].append(seconds)
    return result


def _theirs(args: Mapping[str, Any]) -> Layer | None:
    shapes = [next(iter(each.values())) for each in args.get("input_type_shape", [])]
    results = [next(iter(each.values())) for each in args.get("output_type_shape", [])]
    if args["op_name"] in ("Conv", "FusedConv"):
        return layer_of(shapes[0], shapes[1], results[0])
    if args["op_name"] in ("Gemm", "FusedGemm", "MatMul"):
        return Layer(shapes[0][-1], 1, 1, results[0][-1], 1, 1, 1)
    return None


def _rounded(layer: Layer) -> tuple[int, ...]:
    """Return `layer` with channels as ONNX Runtime rounds them up for its blocked layout."""
    if layer.groups == layer.inputs:
        return (-(-layer.inputs // 16), *layer[1:3], -(-layer.outputs // 16), *layer[4:6])
    channels = layer.inputs if layer.inputs < 16 else -(-layer.inputs // 16) * 16
    outputs = -(-layer.outputs // 16) * 16
    return (channels, *layer[1:3], outputs, *layer[4:])
