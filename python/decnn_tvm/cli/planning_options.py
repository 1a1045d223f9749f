# SPDX-License-Identifier: Apache-2.0
"""What commands that plan share: which cluster, what is known of it, and what is wanted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.connection import add_cluster, cluster_of
from decnn_tvm.cli.image_options import add_pixels, pixel_options
from decnn_tvm.cli.options import add_kernels, size_option

if TYPE_CHECKING:
    from decnn_tvm.network import Network
    from decnn_tvm.planning.planner import Goal, Ranking
    from decnn_tvm.planning.speeds import Speeds
    from decnn_tvm.profiling.profile import Profile


GOAL: Goal = "throughput"
"""What is planned for, unless said otherwise."""


def add_planning(parser: argparse.ArgumentParser) -> None:
    """Add the cluster, the options of `add_goal`, and what a model would be compiled with."""
    add_cluster(parser, "the workers and links in a cluster file; they need not be there")
    add_goal(parser)
    add_kernels(parser)
    add_pixels(parser)


def add_goal(parser: Any) -> None:
    """Add what is known of the cluster, and what is wanted."""
    parser.add_argument(
        "--profile", metavar="FILE.json", help="what `decnn profile` measured on this cluster"
    )
    parser.add_argument(
        "--for",
        dest="goal",
        choices=("latency", "throughput"),
        default=GOAL,
        help="the time of one sample alone, or samples per second (throughput)",
    )
    parser.add_argument(
        "--memory",
        type=size_option,
        metavar="SIZE",
        help="what every worker may take, such as 512M (as the cluster file says)",
    )


def speeds_of(options: argparse.Namespace) -> Speeds:
    """Return what is known of the cluster that was given.

    Raises
    ------
    InputError
        No cluster was given, or a file is damaged.
    """
    from decnn_tvm.errors import InputError
    from decnn_tvm.planning.speeds import cluster_speeds

    cluster = cluster_of(options)
    if cluster is None:
        raise InputError(
            "which cluster? Pass --cluster cluster.toml; `decnn cluster init` writes one."
        )
    return cluster_speeds(cluster, profile_of(options), options.memory, cores=options.cores)


def profile_of(options: argparse.Namespace) -> Profile | None:
    """Read the profile, if one was given."""
    if not options.profile:
        return None
    from decnn_tvm.profiling.profile import Profile

    return Profile.read(options.profile)


def with_pixels(network: Network, options: argparse.Namespace) -> Network:
    """Return the network as it is compiled: taking pixels, if that was asked for."""
    from decnn_tvm.compiler import with_image_input

    found = pixel_options(options)
    return with_image_input(network, found.get("image_mean"), found.get("image_std"))


def ranking_of(options: argparse.Namespace, network: Network, **wanted: Any) -> Ranking:
    """Rank the ways to run a network, with a bar while it lasts."""
    from decnn_tvm.cli.compile import progress_bar
    from decnn_tvm.planning.planner import rank

    speeds = speeds_of(options)
    with progress_bar() as progress:
        return rank(
            network,
            speeds,
            goal=options.goal or GOAL,
            winograd=options.winograd,
            progress=progress,
            **wanted,
        )
