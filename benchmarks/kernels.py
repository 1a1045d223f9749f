# SPDX-License-Identifier: Apache-2.0
"""Every distinct layer of the networks, inside its network: our kernels against ONNX Runtime's.

The time of a layer is the sum over the places where the network has it.
Both engines time their own kernels while whole networks run, in turns, so caches are as warm as
they really are. What ONNX Runtime spends beside its convolutions (layout changes, residual sums
that it could not fuse) does not count, where ours count with all that is fused into them.

The peak is measured too: independent multiply-adds of vectors in registers. Last come layers whose
channels per group are no multiple of the vector, beside the same layers rounded up to it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import tvm

from benchmarks.engines import OnnxRuntime
from benchmarks.harness import Figure, interleave, parser, progress, report, use_one_core
from benchmarks.kernel_times import Layer, OurKernels, onnx_runtime_times
from benchmarks.peak import measured_peak
from benchmarks.single_device import SUBJECTS, add_networks, random_inputs
from decnn_tvm.compiler import compile_network
from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.schedules.vectors import vector_lanes
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.layers import convolution
from decnn_tvm.testing.stages import load_stage, random_array, to_blocks

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
        all_shares=False,
        records=options.records,
        shipped_records=options.shipped,
    )
    inputs = random_inputs(package.plan, subject.network.groups or 1, subject.workers)
    ours, theirs = OurKernels(package, inputs), OnnxRuntime(subject.parts, inputs, folder)
    for _ in range(options.rounds):
        for engine in (ours, theirs):
            for _ in range(RUNS):
                engine.run()
    reference = onnx_runtime_times(theirs, list(ours.times))
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
    data, *weights = (
        random_array(*(int(extent) for extent in param.ty.shape)) for param in mod["stage0"].params
    )
    run = load_stage(mod, weights)
    given = tvm.runtime.tensor(to_blocks(data, block))
    return lambda: run(given)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("benchmarks.kernels", __doc__ or "", rounds=9)
    add_networks(options)
    options.add_argument(
        "--records", type=Path, metavar="FOLDER", help="run our layers as was measured there"
    )
    options.add_argument(
        "--shipped", action="store_true", help="use the records that come with the library"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
