# SPDX-License-Identifier: Apache-2.0
"""Which workers a command talks to: addresses on the command line, or a cluster file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decnn_tvm.cluster_file import ClusterFile

CLUSTER = "cluster.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Running workers, by rank, and the coordinator's folder of keys."""

    addresses: tuple[str, ...]
    keys: str | None


def add_connect(parser: Any, *, required: bool = False) -> None:
    """Add the two ways of naming running workers to a parser or an exclusive group."""
    group = parser.add_mutually_exclusive_group(required=True) if required else parser
    group.add_argument(
        "--connect", nargs="+", metavar="HOST:PORT", help="workers that run already, by rank"
    )
    add_cluster(group, "the workers in a cluster file, with its keys")


def add_cluster(parser: Any, summary: str) -> None:
    """Add the option of a cluster file."""
    parser.add_argument("--cluster", metavar=CLUSTER, help=summary)


def connection(options: argparse.Namespace) -> Connection | None:
    """Return what `add_connect` and `add_keys` asked for, None without workers."""
    if options.connect:
        return Connection(addresses=tuple(options.connect), keys=options.keys)
    if (cluster := cluster_of(options)) is None:
        return None
    own = None if cluster.keys is None else str(cluster.keys)
    return Connection(addresses=cluster.addresses, keys=options.keys or own)


def cluster_of(options: argparse.Namespace) -> ClusterFile | None:
    """Read the cluster file, if one was given."""
    if not options.cluster:
        return None
    from decnn_tvm.cluster_file import ClusterFile

    return ClusterFile.read(options.cluster)
