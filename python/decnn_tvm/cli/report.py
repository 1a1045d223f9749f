# SPDX-License-Identifier: Apache-2.0
"""``decnn report``: a model on a cluster as one page of HTML."""

from __future__ import annotations

import argparse
from pathlib import Path

from decnn_tvm.cli.compile import progress_bar
from decnn_tvm.cli.options import Commands, add_command, add_model, load_model, positives
from decnn_tvm.cli.planning_options import add_planning, profile_of, ranking_of, with_pixels

EXAMPLE = """\
  decnn report resnet50.onnx --cluster cluster.toml -o report.html
  decnn report resnet50.onnx --cluster cluster.toml --trace trace.json -o report.html"""

MOST = 4096
"""Devices in a curve: an exchange of all with all is as many messages, squared."""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "report",
        "draw a model on a cluster as one HTML page",
        "Plan as `decnn plan` does, and write one page of HTML without anything from outside: the\n"
        "network with its placement and exchanges, the timeline (simulated, or of a real run),\n"
        "speed-up curves with their limits, memory of each device, and where computing goes\n"
        "(measured, where there is a profile).",
        EXAMPLE,
    )
    add_model(parser)
    add_planning(parser)
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE.html", help="page to write"
    )
    parser.add_argument(
        "--exact", action="store_true", help="leave out decoupled versions, which need training"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="what `decnn run --trace` wrote"
    )
    parser.add_argument(
        "--counts",
        type=_counts,
        default=(1, 2, 4, 8),
        metavar="1,2,4,8",
        help="numbers of devices in the curves (1,2,4,8)",
    )
    return parser


def _counts(text: str) -> tuple[int, ...]:
    """Parse numbers of devices, each of which is simulated."""
    counts = positives(text)
    if max(counts) > MOST:
        raise argparse.ArgumentTypeError(f"{max(counts)} devices: expected at most {MOST}")
    return counts


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.report.page import Report
    from decnn_tvm.report.speedups import speedup_curves
    from decnn_tvm.report.trace_file import read_trace

    trace, names = read_trace(options.trace) if options.trace else (None, [])
    network = with_pixels(load_model(options), options)
    ranking = ranking_of(options, network, exact=options.exact)
    with progress_bar() as progress:
        curves = speedup_curves(
            network,
            ranking.speeds,
            sorted({*options.counts}),
            goal=options.goal,
            exact=options.exact,
            winograd=options.winograd,
            progress=progress,
        )
    page = Report(
        ranking=ranking,
        curves=curves,
        profile=profile_of(options),
        trace=trace,
        trace_names=names,
    )
    page.write(options.output)
    print(f"{options.output}: written")
