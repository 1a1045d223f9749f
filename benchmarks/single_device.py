# SPDX-License-Identifier: Apache-2.0
"""One device, one thread: our code against ONNX Runtime and ncnn, on whole networks and a shard.

Weights are random; outputs are compared before anything is timed. A shard is what one of four
devices computes of a decoupled network: its stages, on inputs that are ready. With ``--records``
the networks are tuned too, where the folder does not hold their layers yet, and what comes of that
is timed beside the rest.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm

from benchmarks.engines import Array, Engine, Ncnn, OnnxRuntime, Ours
from benchmarks.harness import Figure, interleave, parser, progress, report, use_one_core
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import CompileError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.passes.split_stages import SplitStages, plan_of
from decnn_tvm.pipeline import spreading_passes
from decnn_tvm.plan import Plan
from decnn_tvm.testing import zoo
from decnn_tvm.tuning.tuner import tune

PRESET = "resnet50-x1.75"
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Subject:
    """What is timed: a network split over `workers`, of which one device's part runs.

    Attributes
    ----------
    network : Network
        The network.
    workers : int
        1 for a whole network.
    parts : tuple of ModelProto
        What that device computes, as ONNX: one model per stage.
    """

    network: Network
    workers: int
    parts: tuple[onnx.ModelProto, ...]


def whole(model: onnx.ModelProto) -> Subject:
    """Return a whole network; channel groups are of no account on one device."""
    del model.metadata_props[:]
    return Subject(load(model), 1, (model,))


def decoupled() -> Network:
    """Return the decoupled ResNet-50."""
    return decouple(load(zoo.resnet(50)), preset=PRESET, weights="fresh")


def shard(network: Network, workers: int) -> Subject:
    """Return what one of `workers` devices computes."""
    spread = tvm.transform.Sequential(spreading_passes(network.groups))(network.module)
    split = SplitStages(groups_per_device=1)(spread)  # type: ignore[operator]
    plan, weights = plan_of(split), split.attrs["decnn.weights"]
    parts = []
    for stage in plan.stages:
        func = split[stage.function]
        for attribute in ("decnn.input_blocks", "decnn.output_blocks", "global_symbol"):
            func = func.without_attr(attribute)
        func = func.with_attr("params", [weights[name][0] for name in stage.weights])
        parts.append(to_onnx(Network(stage.function, tvm.IRModule({"main": func}))))
    return Subject(network, workers, tuple(parts))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet18": lambda: whole(zoo.resnet(18)),
    "resnet50": lambda: whole(zoo.resnet(50)),
    "vgg16_bn": lambda: whole(zoo.vgg16_bn()),
    "mobilenet_v2": lambda: whole(zoo.mobilenet_v2()),
    PRESET: lambda: whole(to_onnx(decoupled())),
    f"{PRESET} shard": lambda: shard(decoupled(), 4),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    use_one_core()
    rows, summary = [], {}
    for name in options.networks or SUBJECTS:
        progress(f"{name}: compiling")
        with tempfile.TemporaryDirectory() as folder:
            subject = SUBJECTS[name]()
            row = _measure(name, subject, Path(folder), options.rounds, options.records)
        rows.append(row)
        summary[f"{name}: ONNX Runtime / ours"] = Figure(row["ONNX Runtime / ours"], 1.0)
    ratios = [row["ONNX Runtime / ours"] for row in rows]
    summary["geometric mean: ONNX Runtime / ours"] = Figure(_geometric_mean(ratios), 1.2)
    best = "ours"
    if options.records is not None:
        best = "tuned"
        ratios = [row["ONNX Runtime / tuned"] for row in rows]
        summary["geometric mean: ONNX Runtime / tuned"] = Figure(_geometric_mean(ratios), 1.2)
    for row in rows:
        if row[f"ncnn / {best}"] is not None:
            figure = Figure(min(row[f"ONNX Runtime / {best}"], row[f"ncnn / {best}"]), 1.0)
            summary[f"{row['network']}: the faster of both / {best}"] = figure
    report("one device, one thread, float32", rows, summary, options.json)


def _measure(
    name: str, subject: Subject, folder: Path, rounds: int, records: Path | None
) -> dict[str, Any]:
    package = compile_network(
        subject.network,
        folder / "package",
        workers=subject.workers,
        all_shares=False,
        shipped_records=False,
    )
    inputs = random_inputs(package.plan, subject.network.groups or 1, subject.workers)
    engines: dict[str, Engine] = {"ours": Ours(package, inputs)}
    if records is not None:
        progress(f"{name}: tuning")
        done = tune(subject.network, records, workers=subject.workers)
        new = sum(task.new for task in done.tasks)
        progress(f"{name}: {len(done.tasks)} layers, {new} trials in {done.seconds:.0f} s")
        tuned = compile_network(
            subject.network,
            folder / "tuned",
            records=records,
            workers=subject.workers,
            all_shares=False,
        )
        engines["tuned"] = Ours(tuned, inputs)
    engines["ONNX Runtime"] = OnnxRuntime(subject.parts, inputs)
    mine = list(engines)[:-1]
    errors = {"ONNX Runtime": max(_error(engines[e], engines["ONNX Runtime"]) for e in mine)}
    try:
        engines["ncnn"] = Ncnn(subject.parts, inputs, folder)
        errors["ncnn"] = _error(engines["ours"], engines["ncnn"])
    except CompileError as refusal:
        progress(f"{name}: without ncnn: {refusal}")
    for other, error in errors.items():
        if not error <= TOLERANCE:
            raise CompileError(f"{name}: {other}'s outputs are off by {error:.1e}; not timed")
    progress(f"{name}: timing")
    calls = {engine: _runner(each) for engine, each in engines.items()}
    times = interleave(calls, rounds=rounds, seconds=0.3)
    row: dict[str, Any] = {"network": name}
    row |= {f"{engine} ms": 1e3 * time.median for engine, time in times.items()}
    row.setdefault("ncnn ms", None)
    for ours in mine:
        for other in ("ONNX Runtime", "ncnn"):
            faster = times[ours].times_faster_than(times[other]) if other in times else None
            row[f"{other} / {ours}"] = faster
    return row | {"error": max(errors.values())}


def _runner(engine: Engine) -> Callable[[], object]:
    return lambda: engine.run()


def random_inputs(plan: Plan, groups: int, workers: int) -> list[list[Array]]:
    """Return random inputs for every stage of the first device, in the plain layout."""
    values = {value.name: value for value in plan.values}
    random = np.random.default_rng(0)
    shapes = [
        [values[name].local_shape(groups // workers) for name in stage.inputs]
        for stage in plan.stages
    ]
    return [[random.standard_normal(s).astype("float32") for s in each] for each in shapes]


def _error(ours: Engine, other: Engine) -> float:
    """Return the largest difference of an output, relative to that output's magnitude."""
    worst = 0.0
    for mine, theirs in zip(ours.run(), other.run(), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            plain = a.transpose(0, 1, 4, 2, 3) if a.ndim == 5 else a
            flat, reference = plain.ravel(), np.asarray(b).ravel()
            worst = max(worst, float(np.abs(flat - reference).max() / np.abs(reference).max()))
    return worst


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def add_networks(options: argparse.ArgumentParser) -> None:
    """Add the option that chooses among the subjects; by default they are all taken."""
    options.add_argument(
        "--networks", nargs="+", choices=list(SUBJECTS), metavar="NAME", help=", ".join(SUBJECTS)
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("benchmarks.single_device", __doc__ or "", rounds=9)
    add_networks(options)
    options.add_argument(
        "--records", type=Path, metavar="FOLDER", help="tune, with the measurements kept there"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
