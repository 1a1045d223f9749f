# SPDX-License-Identifier: Apache-2.0
"""``decnn run``: stream samples through a package on local or remote workers."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.connection import add_connect, cluster_of, planned_connection
from decnn_tvm.cli.options import (
    Commands,
    add_command,
    add_keys,
    check_output,
    numbers,
    positive,
    positive_seconds,
    positives,
)
from decnn_tvm.cli.run_outcome import Outcome, save_outputs, write_trace

if TYPE_CHECKING:
    from decnn_tvm.cli.samples import Array, Sample
    from decnn_tvm.package import Package
    from decnn_tvm.runtime import Cluster, Session
    from decnn_tvm.runtime.policy import Policy

EXAMPLE = """\
  decnn run resnet50.pkg --workers 4 --input cat.jpg dog.jpg
  decnn run resnet50.pkg --connect 127.0.0.1:7000 127.0.0.1:7001 --input x.npy --output y.npz
  decnn run resnet50.pkg --connect 192.168.0.11:7000 --keys keys/coordinator --input cat.jpg
  decnn run resnet50.pkg --cluster cluster.toml --input cat.jpg"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "run",
        "stream samples through a package",
        "Start local workers, or connect to running ones, deploy a package and stream samples\n"
        "through it. An image is resized to the input and normalized.",
        EXAMPLE,
    )
    parser.add_argument("package", metavar="PKG", help="a folder that `decnn compile` wrote")
    _add_workers(parser)
    _add_samples(parser)
    parser.add_argument(
        "--in-flight", type=positive, default=4, metavar="K", help="samples under way at once (4)"
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=60.0,
        metavar="S",
        help="seconds that a wait may take (60)",
    )
    parser.add_argument(
        "--silence",
        type=positive_seconds,
        default=1.0,
        metavar="S",
        help="seconds without a heartbeat after which the others take over a worker's part (1)",
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        metavar="N",
        help="other workers that store the weights of a group, for a takeover (1)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.npz",
        help="write every output, stacked over the samples",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write who did what when, for Perfetto"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=positive, metavar="N", help="local workers to start")
    add_connect(where)
    add_keys(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="where workers send to (found by itself)")
    parser.add_argument(
        "--shares",
        type=positives,
        metavar="2,1,1",
        help="channel groups of each worker, or strips, stages or turns (what it was compiled or "
        "planned for, or else even)",
    )
    parser.add_argument("--target", metavar="NAME", help="which of the package's targets to use")


def _add_samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", nargs="+", default=[], type=Path, metavar="FILE", help=".npy, .npz or images"
    )
    parser.add_argument(
        "--mean",
        type=numbers,
        metavar="R,G,B",
        help="mean of image pixels in 0..1, where the package does not take them as they are",
    )
    parser.add_argument(
        "--std", type=numbers, metavar="R,G,B", help="their deviation (both: ImageNet's)"
    )
    parser.add_argument(
        "--random", type=positive, default=4, metavar="N", help="noise samples without --input (4)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    parser.add_argument(
        "--nan", choices=("raise", "allow"), default="raise", help="refuse NaN in inputs (raise)"
    )


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.package import Package

    for option in ("output", "trace"):
        check_output(f"--{option}", getattr(options, option))
    package = Package(options.package)
    samples, names = _samples(options, package)
    with _cluster(options, package) as cluster:
        session = cluster.deploy(
            package,
            shares=options.shares,
            target=_target(options, package),
            policy=_policy(options),
        )
        with session:
            outputs, seconds = _stream(session, samples, options)
            if options.output:
                save_outputs(options.output, outputs)
            outcome = Outcome(
                names=names, outputs=outputs, seconds=seconds, devices=session.stats()
            )
            if options.json:
                print(json.dumps(outcome.as_json(), indent=2))
            else:
                outcome.show()
            if options.trace:
                write_trace(options.trace, session, outcome.devices)


def _target(options: argparse.Namespace, package: Package) -> str | Mapping[str, str] | None:
    """Return the target asked for, or those that a cluster file names and the package has."""
    cluster = cluster_of(options)
    if options.target or cluster is None:
        return options.target  # type: ignore[no-any-return]
    there = package.manifest.targets
    return {w.address: str(w.target) for w in cluster.workers if str(w.target) in there}


def _policy(options: argparse.Namespace) -> Policy:
    from decnn_tvm.runtime.policy import Policy

    return Policy(
        replicas=options.replicas,
        silence=options.silence,
        beat=min(Policy().beat, options.silence / 4),
    )


def _samples(options: argparse.Namespace, package: Package) -> tuple[Iterator[Sample], list[str]]:
    from decnn_tvm.cli.samples import Normalization, noise, read_sample

    given = {name: getattr(options, name) for name in ("mean", "std") if getattr(options, name)}
    normalization = Normalization(**given)
    if options.input:
        plan = package.plan
        inputs = [plan.value(name) for name in plan.inputs]
        samples = (read_sample(path, plan.model, inputs, normalization) for path in options.input)
        return samples, [str(path) for path in options.input]
    if not options.json:
        print(f"no --input: {options.random} samples of random noise, seed {options.seed}")
    names = [f"noise {index} (seed {options.seed})" for index in range(options.random)]
    return noise(package.plan, options.random, options.seed), names


def _cluster(options: argparse.Namespace, package: Package) -> Cluster:
    from decnn_tvm.runtime import Cluster, LocalCluster

    if (found := planned_connection(options, package.manifest)) is not None:
        _check_shares(options, package, len(found.addresses))
        return Cluster.connect(
            found.addresses,
            host=options.host,
            timeout=options.timeout,
            keys=found.keys,
            insecure=options.insecure,
        )
    default = len(options.shares) if options.shares else default_workers(package)
    workers = options.workers or default
    _check_shares(options, package, workers)
    return LocalCluster(workers, timeout=options.timeout, keys=options.keys)


def _check_shares(options: argparse.Namespace, package: Package, workers: int) -> None:
    """Refuse what can't be dealt before anything starts."""
    from decnn_tvm.assignment import assign_groups

    assign_groups(package.plan, workers, options.shares or package.shares_for(workers))


def default_workers(package: Package) -> int:
    """Return the number of workers that a package was compiled for."""
    return package.manifest.workers


def _stream(
    session: Session, samples: Iterator[Sample], options: argparse.Namespace
) -> tuple[list[dict[str, Array]], float]:
    """Return the outputs of every sample, and the seconds that all took."""
    outputs = []
    start = time.perf_counter()
    for result in session.stream(samples, in_flight=options.in_flight, nan=options.nan):
        named = result if isinstance(result, dict) else {session.plan.outputs[0]: result}
        outputs.append(named)
    return outputs, time.perf_counter() - start
