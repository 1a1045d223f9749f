# SPDX-License-Identifier: Apache-2.0
"""``decnn demo``: a trained network split exactly, then a decoupled one streamed and drawn."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.compile import progress_bar
from decnn_tvm.cli.options import Commands, add_command
from decnn_tvm.cli.tables import print_devices, print_table

if TYPE_CHECKING:
    from decnn_tvm.demo.decoupled_stream import StreamReport
    from decnn_tvm.demo.exact_split import Comparison

EXAMPLE = """\
  decnn demo --out demo-out
  decnn demo --quick"""

TOLERANCE = 1e-4
"""Largest error allowed, relative to the reference's largest magnitude."""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "demo",
        "see it work on real photographs, in three minutes at most on two cores",
        "Split a trained ResNet-50-thin exactly over four local workers and compare every answer\n"
        "with ONNX Runtime. Then decouple ResNet-50, stream images through it, and draw who\n"
        "computed what when.",
        EXAMPLE,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder (demo-out)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.demo.data import photographs
    from decnn_tvm.demo.decoupled_stream import WORKERS, stream_decoupled
    from decnn_tvm.demo.exact_split import split_exactly

    pictures = photographs(4 if options.quick else 20)
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        "1. opennsfw's ResNet-50-thin (trained weights), undecoupled, split over "
        f"{WORKERS} local workers; {len(pictures)} photographs"
    )
    with progress_bar() as progress:
        comparisons = split_exactly(
            pictures, options.out / "opennsfw.pkg", workers=WORKERS, progress=progress
        )
    _show_comparison(pictures, comparisons)
    print(
        f"\n2. ResNet-50, decoupled (x1.75, G = 4, three shuffles), on {WORKERS} local workers.\n"
        "   Its weights are random, UNTRAINED: its answers mean nothing. What is shown is that\n"
        "   the split computes the same numbers, and what that takes."
    )
    with progress_bar() as progress:
        report = stream_decoupled(
            pictures, options.out, images=16 if options.quick else 40, progress=progress
        )
    _show_stream(report)
    _draw(report, options.out / "timeline.png")


def _show_comparison(pictures: list[Path], comparisons: list[Comparison]) -> None:
    probabilities, logits = comparisons
    rows = [
        (
            picture.name,
            f"{ours.ravel()[0]:.6f}",
            f"{reference.ravel()[0]:.6f}",
            f"{errors[0]:.1e}",
            f"{errors[1]:.1e}",
        )
        for picture, ours, reference, *errors in zip(
            pictures,
            probabilities.ours,
            probabilities.reference,
            probabilities.errors,
            logits.errors,
            strict=True,
        )
    ]
    columns = ("photograph", "safe for work: ours", "ONNX Runtime", "error", "error of logits")
    print_table("", columns, rows)
    for comparison in comparisons:
        _verdict(comparison)


def _show_stream(report: StreamReport) -> None:
    _verdict(report.logits)
    kinds = ", ".join(report.movements)
    print(f"movements per image: {kinds}; decoupled network written to {report.onnx_file}")
    print_devices(report.devices)
    print(
        f"latency of one image alone: {1e3 * report.latency:.0f} ms (median); throughput of "
        f"{report.images} images, {report.in_flight} in flight: {report.throughput:.1f} per second"
    )
    cores = len(os.sched_getaffinity(0))
    if cores < len(report.devices):
        print(
            f"{len(report.devices)} workers share {cores} cores here, so this shows no speed-up; "
            "waiting includes waiting for a core."
        )


def _draw(report: StreamReport, path: Path) -> None:
    from decnn_tvm.demo.timeline_picture import draw_timeline, window_of

    title = f"decoupled ResNet-50: {report.in_flight} images in flight, numbers name stages"
    draw_timeline(report.timeline, window_of(report.timeline), path, title)
    print(f"timeline: {path.resolve()}")


def _verdict(comparison: Comparison) -> None:
    from decnn_tvm.errors import ClusterError

    text = (
        f"output {comparison.output!r}: over {len(comparison.ours)} photographs the largest "
        f"difference from ONNX Runtime is {comparison.error:.1e} of the largest magnitude"
    )
    if not comparison.error <= TOLERANCE:
        raise ClusterError(f"{text}; expected at most {TOLERANCE:g}. This is a bug: report it.")
    print(f"{text} (the two most similar answers differ by {comparison.closest:.1e})")
