# SPDX-License-Identifier: Apache-2.0
"""``decnn profile``: what a package's stages and a cluster's links take, into a file."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.connection import add_connect, cluster_of, connection
from decnn_tvm.cli.options import (
    Commands,
    add_command,
    add_keys,
    positive,
    positive_seconds,
    positives,
)

if TYPE_CHECKING:
    from decnn_tvm.profiling.profile import Profile
    from decnn_tvm.runtime import Cluster

EXAMPLE = """\
  decnn profile resnet50.pkg --cluster cluster.toml -o profile.json
  decnn profile resnet50.pkg --workers 4 -o profile.json"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "profile",
        "measure a package's stages and a cluster's links",
        "Deploy a package to workers, time the links between all machines and its stages on ready\n"
        "data, and run samples to learn what messages cost the processors. `decnn plan` and\n"
        "`decnn report` read the file. The workers must be idle.",
        EXAMPLE,
    )
    parser.add_argument("package", metavar="PKG", help="a folder that `decnn compile` wrote")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE.json", help="profile to write"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workers", type=positive, metavar="N", help="local workers to start")
    add_connect(where)
    add_keys(parser)
    parser.add_argument(
        "--shares", type=positives, metavar="2,1,1", help="groups of each worker (as `decnn run`)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        default=2.0,
        metavar="S",
        help="how long the stages are timed; samples then take as long again (2)",
    )
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.package import Package
    from decnn_tvm.profiling.measuring import measure_profile

    package, cluster_file = Package(options.package), cluster_of(options)
    names = None if cluster_file is None else [worker.name for worker in cluster_file.workers]
    with contextlib.closing(_cluster(options)) as cluster:
        profile = measure_profile(
            cluster, package, names=names, shares=options.shares, seconds=options.seconds
        )
    profile.write(options.output)
    show(profile)


def _cluster(options: argparse.Namespace) -> Cluster:
    from decnn_tvm.runtime import Cluster, LocalCluster

    if options.workers:
        return LocalCluster(options.workers, keys=options.keys)
    found = connection(options)
    assert found is not None
    return Cluster.connect(found.addresses, keys=found.keys, insecure=options.insecure)


def show(profile: Profile) -> None:
    """Print what was measured."""
    from decnn_tvm.cli.tables import MEGA, print_table
    from decnn_tvm.quantities import format_rate, format_time

    rows = [
        (
            worker.name,
            str(worker.groups),
            f"{1e3 * sum(stage.seconds for stage in worker.stages):.2f}",
            f"{1e6 * worker.seconds_per_message:.0f}",
            f"{1e9 * worker.seconds_per_byte:.2f}",
            f"{worker.weight_bytes / MEGA:.1f}",
        )
        for worker in (*profile.workers, profile.coordinator)
    ]
    columns = ("machine", "groups", "stages ms", "message us", "byte ns", "weights MB")
    print_table(profile.model, columns, rows)
    links = [
        (
            " - ".join(link.between),
            format_rate(8 * link.bytes_per_second),
            format_time(link.latency_seconds),
        )
        for link in profile.links
    ]
    if profile.coordinator_bytes_per_second is not None:
        rate = format_rate(8 * profile.coordinator_bytes_per_second)
        links.append(("coordinator - several at a time", rate, ""))
    print_table("links", ("between", "bandwidth", "latency"), links)
