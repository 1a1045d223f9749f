# SPDX-License-Identifier: Apache-2.0
"""Which workers a command talks to: addresses on the command line, or a cluster file."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decnn_tvm.cluster_file import ClusterFile
    from decnn_tvm.manifest import Manifest

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


def planned_connection(options: argparse.Namespace, manifest: Manifest) -> Connection | None:
    """Return `connection`, of a cluster file only the workers that a package was planned for.

    All of them where `options.shares` deals its groups anew.

    Raises
    ------
    InputError
        The file does not have these workers.
    """
    found, cluster = connection(options), cluster_of(options)
    if found is None or cluster is None or options.shares or not manifest.worker_names:
        return found
    addresses = {worker.name: worker.address for worker in cluster.workers}
    if missing := [name for name in manifest.worker_names if name not in addresses]:
        from decnn_tvm.errors import InputError

        raise InputError(
            f"--cluster {options.cluster}: the package was planned for the workers "
            f"{list(manifest.worker_names)}, and the file has no {missing}. Compile it for this "
            "cluster, or deal its groups anew with --shares."
        )
    planned = tuple(addresses[name] for name in manifest.worker_names)
    return dataclasses.replace(found, addresses=planned)


def cluster_of(options: argparse.Namespace) -> ClusterFile | None:
    """Read the cluster file, if one was given."""
    if not options.cluster:
        return None
    from decnn_tvm.cluster_file import ClusterFile

    return ClusterFile.read(options.cluster)
