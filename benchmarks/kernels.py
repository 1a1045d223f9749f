# SPDX-License-Identifier: Apache-2.0
"""Every distinct layer of the networks, inside its network: our kernels against ONNX Runtime's.

A layer is told by its shapes, and its time is the sum over the places where the network has it.
Both engines time their own kernels while whole networks run, in turns, so caches are as warm as
they really are. What ONNX Runtime spends beside its convolutions (layout changes, residual sums
that it could not fuse) does not count, where ours count with all that is fused into them.

The peak is measured too: independent multiply-adds of vectors in registers. Last come layers whose
channels per group are no multiple of the vector, beside the same layers rounded up to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import tvm
from tvm import relax

from benchmarks.engines import Array
from benchmarks.harness import Figure, interleave, parser, progress, report, use_one_core
from benchmarks.single_device import SUBJECTS, Subject, random_inputs
from decnn_tvm.compiler import compile_network
from decnn_tvm.lowering import build_stages
from decnn_tvm.package import Package
from decnn_tvm.runtime.library import PACK_SUFFIX
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.schedules.vectors import vector_lanes
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.layers import convolution
from decnn_tvm.testing.stages import to_blocks

# Runs of a network in a turn.
RUNS = 3
# Layers that take less of their network's time are shown, but no aim is set for them.
HEAVY = 0.02
# Channels per group that are no multiple of a vector, in so many groups.
REMAINDERS, GROUPS = (24, 28, 56), 4
COLUMNS = (
    "network",
    "layer",
    "kernel",
    "times",
    "share",
    "us",
    "GFLOP/s",
    "of peak",
    "ONNX Runtime / ours",
    "of rounded",
)


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
        (target,) = package.manifest.targets
        (count,) = package.manifest.targets[target].libraries
        weights = DeviceWeights(package, tuple(range(count)))
        path = package.file(package.library(target, count))
        self._vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        values = {value.name: value for value in plan.values}
        self._calls = []
        for stage, arrays in zip(plan.stages, inputs, strict=True):
            tensors = [tvm.runtime.tensor(weights[name]) for name in stage.weights]
            packed = list(self._vm[stage.function + PACK_SUFFIX](tensors))
            blocks = [values[name].block for name in stage.inputs]
            ready = [to_blocks(a, b) for a, b in zip(arrays, blocks, strict=True)]
            given = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in ready]
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


class OnnxRuntimeKernels:
    """Times the convolutions and dense layers of ONNX Runtime, with its own profiler."""

    def __init__(self, subject: Subject, inputs: Sequence[Sequence[Array]], folder: Path) -> None:
        self._sessions = []
        for index, (model, arrays) in enumerate(zip(subject.parts, inputs, strict=True)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.graph_optimization_level = level
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / f"part{index}")
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            names = [info.name for info in session.get_inputs()]
            self._sessions.append((session, dict(zip(names, arrays, strict=True))))

    def run(self) -> None:
        """Run the network once."""
        for session, feed in self._sessions:
            session.run(None, feed)

    def times(self, layers: Sequence[Layer]) -> Times:
        """End; return the seconds of those of `layers` that its kernels are found to be."""
        known = {_rounded(layer): layer for layer in layers}
        runs: defaultdict[tuple[int, Layer], float] = defaultdict(float)
        for session, _ in self._sessions:
            events = json.loads(Path(session.end_profiling()).read_text())
            seen: defaultdict[str, int] = defaultdict(int)
            for event in events:
                if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                    continue
                found = _theirs(event["args"])
                layer = known.get(_rounded(found)) if found else None
                if layer is not None:
                    runs[seen[event["name"]], layer] += event["dur"] / 1e6
                seen[event["name"]] += 1
        result: Times = defaultdict(list)
        for (_, layer), seconds in sorted(runs.items()):
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


_PEAK = r"""
#include <stdio.h>
#include <time.h>
#ifdef __aarch64__
#define REGISTER "w"
#else
#define REGISTER "v"
#endif
typedef float vec __attribute__((vector_size(BYTES)));
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
                          return t.tv_sec + 1e-9 * t.tv_nsec; }
int main(void) {
  vec sum[12]; vec a = {0}, b = {0};
  for (int i = 0; i < 12; i++) sum[i] = a;
  double best = 1e9;
  for (int turn = 0; turn < 20; turn++) {
    double start = now();
    for (long k = 0; k < 2000000; k++) {
      __asm__ volatile("" : "+" REGISTER (a), "+" REGISTER (b));
      for (int i = 0; i < 12; i++) sum[i] += a * b;
    }
    double seconds = now() - start;
    if (seconds < best) best = seconds;
  }
  vec all = sum[0];
  for (int i = 1; i < 12; i++) all += sum[i];
  printf("%g %g\n", 2.0 * 12 * (BYTES / 4) * 2000000 / best, (double)all[0]);
}
"""


def measured_peak(folder: Path) -> float:
    """Return the most floating-point operations per second of one core, in single precision."""
    size = 4 * vector_lanes(resolve_target("host").target)
    (folder / "peak.c").write_text(_PEAK)
    command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-march=native", f"-DBYTES={size}"]
    command += ["-ffp-contract=fast", "-funroll-loops", "peak.c", "-o", "peak"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    done = subprocess.run(
        [str(folder / "peak")], capture_output=True, text=True, check=True, timeout=60
    )
    return float(done.stdout.split()[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    use_one_core()
    with tempfile.TemporaryDirectory() as folder:
        peak = measured_peak(Path(folder))
    progress(f"peak of one core: {peak / 1e9:.0f} GFLOP/s")
    rows: list[dict[str, Any]] = []
    summary: dict[str, Figure] = {}
    for name in options.networks or SUBJECTS:
        progress(name)
        with tempfile.TemporaryDirectory() as folder:
            found = _layers(name, Path(folder), options, peak)
        rows += found
        heavy = [row["ONNX Runtime / ours"] for row in found if row["share"] > HEAVY]
        worst = min(ratio for ratio in heavy if ratio is not None)
        summary[f"{name}, the worst layer over 2 %: ONNX Runtime / ours"] = Figure(worst, 0.9)
    progress("channels that are no multiple of the vector")
    for row in _remainders(options.rounds, peak):
        rows.append(row)
        summary[f"{row['layer']}: of the GFLOP/s rounded up"] = Figure(row["of rounded"], 0.85)
    table = [{column: row.get(column) for column in COLUMNS} for row in rows]
    report("layers, one thread, float32", table, summary, options.json)


def _layers(
    name: str, folder: Path, options: argparse.Namespace, peak: float
) -> list[dict[str, Any]]:
    subject = SUBJECTS[name]()
    package = compile_network(
        subject.network,
        folder / "package",
        workers=subject.workers,
        records=options.records,
        shipped_records=options.shipped,
    )
    inputs = random_inputs(package.plan, subject.network.groups or 1, subject.workers)
    ours, theirs = OurKernels(package, inputs), OnnxRuntimeKernels(subject, inputs, folder)
    for _ in range(options.rounds):
        for run in (ours.run, theirs.run):
            for _ in range(RUNS):
                run()
    reference = theirs.times(list(ours.times))
    total = median(ours.total)
    rows = []
    for layer, seconds in ours.times.items():
        mine, other = median(seconds), reference.get(layer)
        rate = ours.places[layer] * layer.flops / mine
        rows.append(
            {
                "network": name,
                "layer": str(layer),
                "kernel": ours.kernels[layer],
                "times": ours.places[layer],
                "share": mine / total,
                "us": 1e6 * mine,
                "GFLOP/s": rate / 1e9,
                "of peak": rate / peak,
                "ONNX Runtime / ours": median(other) / mine if other else None,
            }
        )
    return sorted(rows, key=lambda row: -float(row["share"]))


def _remainders(rounds: int, peak: float) -> list[dict[str, Any]]:
    """Compare layers with odd channels per group with those rounded up to whole vectors."""
    lanes = vector_lanes(resolve_target("host").target)
    rows = []
    for channels, kernel in product(REMAINDERS, (1, 3)):
        sizes = {"odd": channels, "rounded": -(-channels // lanes) * lanes}
        if sizes["odd"] == sizes["rounded"]:
            continue
        layers = {
            name: Layer(GROUPS * size, 28, 28, GROUPS * size, kernel, 1, GROUPS)
            for name, size in sizes.items()
        }
        times = interleave(
            {name: _runner(layer) for name, layer in layers.items()}, rounds=rounds, seconds=0.2
        )
        rate = {name: layers[name].flops / times[name].median for name in layers}
        faster = times["odd"].times_faster_than(times["rounded"])
        rows.append(
            {
                "network": f"{channels} channels per group",
                "layer": str(layers["odd"]),
                "us": 1e6 * times["odd"].median,
                "GFLOP/s": rate["odd"] / 1e9,
                "of peak": rate["odd"] / peak,
                "of rounded": faster * layers["odd"].flops / layers["rounded"].flops,
            }
        )
    return rows


def _runner(layer: Layer) -> Callable[[], object]:
    """Return a call of a layer compiled on its own."""
    block = preferred_block(layer.inputs // layer.groups)
    mod = convolution(
        layer.inputs,
        layer.outputs,
        layer.height,
        layer.kernel,
        groups=layer.groups,
        blocks=(block, block),
    )
    machine = relax.VirtualMachine(
        build_stages(mod, resolve_target("host").target).jit(), tvm.cpu()
    )
    (function,) = (
        name.name_hint for name, func in mod.functions_items() if isinstance(func, relax.Function)
    )
    shapes = [[int(extent) for extent in param.ty.shape] for param in mod[function].params]
    values = [np.random.default_rng(0).standard_normal(shape).astype("float32") for shape in shapes]
    data = tvm.runtime.tensor(to_blocks(values[0], block))
    weights = [tvm.runtime.tensor(value) for value in values[1:]]
    packed = list(machine[function + PACK_SUFFIX](weights))
    run = machine[function]
    return lambda: run(data, *packed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("benchmarks.kernels", __doc__ or "", rounds=9)
    options.add_argument(
        "--networks", nargs="+", choices=list(SUBJECTS), metavar="NAME", help=", ".join(SUBJECTS)
    )
    options.add_argument(
        "--records", type=Path, metavar="FOLDER", help="run our layers as was measured there"
    )
    options.add_argument(
        "--shipped", action="store_true", help="use the records that come with the library"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
