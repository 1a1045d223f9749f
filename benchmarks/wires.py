# SPDX-License-Identifier: Apache-2.0
"""Wire types: bytes, compute time and error of each, on photographs.

Two networks over four devices: the decoupled ResNet-50 x1.75 of the method, whose weights are
random, with three exchanges; and a trained ResNet-50-thin split exactly, where every layer
exchanges and rounding adds up. int8 is calibrated on half of the photographs, and every error is
that of the other half, against ONNX Runtime in float32.

Compute is what one device takes for all its stages on ready data, on one core, the wire types in
turn: what casts and scales cost is the difference to float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.harness import Figure, Timing, interleave, parser, progress, report, use_one_core
from decnn_tvm.channel_histogram import METHODS
from decnn_tvm.cli.samples import IMAGENET_MEAN, IMAGENET_STD
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.demo.data import imagenet_sample, opennsfw_sample, photographs, trained_model
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.plan import nbytes
from decnn_tvm.runtime.executor import StageRunner
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import all_reference_outputs

PRESET = "resnet50-x1.75"
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A network with photographs as it takes them; `output` is the index of its logits."""

    name: str
    network: Network
    model: onnx.ModelProto
    samples: tuple[Array, ...]
    pixels: tuple[Array, ...]
    output: int


def decoupled(files: Sequence[Path]) -> Subject:
    """Return ResNet-50 x1.75."""
    network = decouple(load(zoo.resnet(50)), preset=PRESET, weights="fresh")
    samples = tuple(imagenet_sample(path) for path in files)
    mean, std = (np.array(numbers).reshape(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = tuple(np.rint((x * std + mean) * 255).astype("uint8") for x in samples)
    return Subject(PRESET, network, to_onnx(network), samples, pixels, 0)


def trained(files: Sequence[Path]) -> Subject:
    """Return opennsfw's ResNet-50-thin."""
    model = trained_model()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        network = load(Path(folder) / "model.onnx")
    samples = tuple(opennsfw_sample(path) for path in files)
    return Subject("trained ResNet-50-thin", network, model, samples, (), 1)


SUBJECTS = {PRESET: decoupled, "trained": trained}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of compiling; `pixels` tells whether the input is uint8."""

    name: str
    options: dict[str, Any]
    calibrated: bool = False
    pixels: bool = False


VARIANTS = (
    Variant("float32", {}),
    Variant("float16", {"wire": "float16"}),
    Variant("int8, scales per message", {"wire": "int8"}),
    *(
        Variant(f"int8, {method}", {"wire": "int8", "calibration_method": method}, calibrated=True)
        for method in METHODS
    ),
    Variant(
        "float32, pixels in", {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}, pixels=True
    ),
)
TIMED = ("float32", "float16", "int8, scales per message", "int8, headroom", "float32, pixels in")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a package did on the second half of the photographs."""

    outputs: list[Array]
    sent: float
    received_input: int
    compute: Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    use_one_core()
    files = photographs(20)
    rows = []
    for name in options.networks or SUBJECTS:
        rows += measure(SUBJECTS[name](files), options.rounds)
    report("wire types, four devices", rows, _summary(rows), options.json)


def measure(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a network."""
    half = len(subject.samples) // 2
    runs = all_reference_outputs(subject.model, subject.samples[half:])
    reference = [outputs[subject.output] for outputs in runs]
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, variant in enumerate(VARIANTS):
            if variant.pixels and not subject.pixels:
                continue
            progress(f"{subject.name}: {variant.name}")
            options = dict(variant.options)
            if variant.calibrated:
                options["calibration"] = subject.samples[:half]
            # Another folder each time: a library at a path that is loaded is not loaded again.
            out = Path(folder) / f"package{index}"
            package = compile_network(subject.network, out, workers=WORKERS, **options)
            inputs = (subject.pixels if variant.pixels else subject.samples)[half:]
            outcomes[variant.name] = _run(package, inputs, subject.output)
    progress(f"{subject.name}: timing")
    timed = {name: outcomes[name].compute for name in TIMED if name in outcomes}
    times = interleave(timed, rounds=rounds, seconds=1.0)
    return [_row(subject, name, outcomes, reference, times) for name in outcomes]


def _run(package: Package, inputs: Sequence[Array], output: int) -> Outcome:
    plan = package.plan
    (target,) = package.manifest.targets
    ready: dict[str, Sequence[Array]] = {}
    library: list[StageRunner] = []

    def load_rank(rank: int) -> StageRunner:
        path = package.file(package.library(target, 1))
        own = StageLibrary(path, plan, DeviceWeights(package, (rank,)))
        if rank:
            return own
        library.append(own)

        def record(function: str, arrays: Sequence[Array]) -> Sequence[Array]:
            ready[function] = [array.copy() for array in arrays]
            return own(function, arrays)

        return record

    with InProcessCluster(WORKERS) as cluster, cluster.start(plan, load_rank) as session:
        results = [session.run(x) for x in inputs]
        exchanged = {str(m) for m in plan.movements if m.kind not in ("input", "output")}
        sent = [
            sum(count for name, count in stats.sent_bytes.items() if name in exchanged)
            for stats in session.stats()
        ]

    def compute() -> None:
        for stage in plan.stages:
            library[0](stage.function, ready[stage.function])

    return Outcome(
        outputs=[
            list(result.values())[output] if isinstance(result, dict) else result
            for result in results
        ],
        sent=max(sent) / len(inputs),
        received_input=sum(nbytes(plan.value(name), 1) for name in plan.inputs),
        compute=compute,
    )


def _row(
    subject: Subject,
    name: str,
    outcomes: dict[str, Outcome],
    reference: Sequence[Array],
    times: dict[str, Timing],
) -> dict[str, Any]:
    outcome, time = outcomes[name], times.get(name)
    largest = max(float(np.abs(y).max()) for y in reference)
    pairs = zip(outcome.outputs, reference, strict=True)
    errors = [float(np.abs(a - b).max()) / largest for a, b in pairs]
    agreed = sum(
        int(a.argmax() == b.argmax()) for a, b in zip(outcome.outputs, reference, strict=True)
    )
    added = None
    if time is not None:
        base = times["float32"].rounds
        added = statistics.median(t - b for t, b in zip(time.rounds, base, strict=True))
    return {
        "network": subject.name,
        "wire": name,
        "sent MB": outcome.sent / 1e6,
        "input MB": outcome.received_input / 1e6,
        "largest error": max(errors),
        "median error": statistics.median(errors),
        "same class": f"{agreed} of {len(errors)}",
        "compute ms": None if time is None else 1e3 * time.median,
        "ms more than float32": None if added is None else 1e3 * added,
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    of = {row["wire"]: row for row in rows if row["network"] == PRESET}
    if not of:
        return {}
    float32, int8 = of["float32"], of["int8, headroom"]
    return {
        "sent: float16 / float32": Figure(
            of["float16"]["sent MB"] / float32["sent MB"], 0.51, True
        ),
        "sent: int8 / float32": Figure(int8["sent MB"] / float32["sent MB"], 0.26, True),
        "input: uint8 / float32": Figure(
            of["float32, pixels in"]["input MB"] / float32["input MB"], 0.25, True
        ),
        "largest error, float32": Figure(float32["largest error"], 1e-4, True),
        "compute: int8 / float32": Figure(int8["compute ms"] / float32["compute ms"], 1.05, True),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    result = parser("benchmarks.wires", __doc__.splitlines()[0], rounds=7)
    result.add_argument(
        "--networks", nargs="+", choices=list(SUBJECTS), metavar="NAME", help=", ".join(SUBJECTS)
    )
    return result.parse_args(arguments)


if __name__ == "__main__":
    main()
