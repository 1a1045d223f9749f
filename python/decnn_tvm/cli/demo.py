# SPDX-License-Identifier: Apache-2.0
"""``decnn demo``: a network split exactly, a trained decoupled one, and a wide one streamed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.compile import progress_bar
from decnn_tvm.cli.options import Commands, add_command
from decnn_tvm.cli.tables import print_devices, print_table

if TYPE_CHECKING:
    from decnn_tvm.demo.classification import Classification
    from decnn_tvm.demo.decoupled_stream import StreamReport
    from decnn_tvm.demo.exact_split import Comparison
    from decnn_tvm.labelled_images import LabelledImages

EXAMPLE = """\
  decnn demo --out demo-out
  decnn demo --quick
  decnn demo --data cifar10/"""

TOLERANCE = 1e-4
"""Largest error allowed, relative to the reference's largest magnitude."""

_TEST_IMAGES = 1000
_SHOWN = 20


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "demo",
        "see it work on real photographs, in three minutes at most on two cores",
        "Split a trained ResNet-50-thin exactly over four local workers and compare every answer\n"
        "with ONNX Runtime. Let a small decoupled network, trained on CIFAR-10, classify images\n"
        "over four workers. Then decouple ResNet-50, stream images through it, and draw who\n"
        "computed what when.",
        EXAMPLE,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder (demo-out)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help=f"CIFAR-10, to classify {_TEST_IMAGES} of its test images instead of the 20 that "
        "foolbox carries: a folder train/CLASS/*, test/CLASS/* or an .npz file, as for finetune",
    )
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.demo.data import photographs
    from decnn_tvm.demo.decoupled_stream import WORKERS, stream_decoupled
    from decnn_tvm.demo.exact_split import split_exactly

    pictures = photographs(4 if options.quick else 20)
    images = _labelled_images(options.data)
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
    _classify(images, options.out)
    print(
        f"\n3. ResNet-50, decoupled (x1.75, G = 4, three shuffles), on {WORKERS} local workers.\n"
        "   Its weights are random, UNTRAINED: its answers mean nothing. What is shown is that\n"
        "   the split computes the same numbers, and what that takes."
    )
    with progress_bar() as progress:
        report = stream_decoupled(
            pictures, options.out, images=16 if options.quick else 40, progress=progress
        )
    _show_stream(report)
    _draw(report, options.out / "timeline.png")


def _labelled_images(source: Path | None) -> LabelledImages:
    from decnn_tvm.demo.classification import some_test_images
    from decnn_tvm.demo.data import cifar10_images
    from decnn_tvm.labelled_images import read_image_data

    if source is None:
        return cifar10_images()
    return some_test_images(read_image_data(source, (32, 32, 3)), _TEST_IMAGES, source)


def _classify(images: LabelledImages, folder: Path) -> None:
    from decnn_tvm.demo.classification import classify
    from decnn_tvm.demo.decoupled_stream import WORKERS
    from decnn_tvm.demo.shipped_network import shipped_card

    card = shipped_card()
    print(
        f"\n2. {card.name}: ResNet-20 for CIFAR-10, decoupled ({card.structure}) and trained by\n"
        f"   decnn_tvm.training (start: {card.start}; epochs: {card.epochs}), on {WORKERS} local "
        f"workers;\n   {len(images.labels)} test images, which it was not trained on."
    )
    with progress_bar() as progress:
        found = classify(images, folder / "cifar10.pkg", workers=WORKERS, progress=progress)
    _show_classification(found)


def _show_classification(found: Classification) -> None:
    names = found.card.classes
    rows = [
        (
            str(number),
            names[label],
            names[answer],
            f"{sure:.0%}",
            "" if answer == label else "wrong",
        )
        for number, (label, answer, sure) in enumerate(
            zip(found.labels, found.answers, found.confidences, strict=True)
        )
    ]
    print_table("", ("image", "shows", "answer", "sure", ""), rows[:_SHOWN], text=3)
    _verdict(found.logits)
    total = len(found.labels)
    print(
        f"top-1: {found.right} of {total} right ({found.right / total:.1%}); on all 10,000 test "
        f"images, as its card says, {found.card.accuracy:.2%}\n"
        f"movements per image: {', '.join(found.movements)}; {found.throughput:.0f} images per "
        "second"
    )


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
        f"output {comparison.output!r}: over {len(comparison.ours)} images the largest "
        f"difference from ONNX Runtime is {comparison.error:.1e} of the largest magnitude"
    )
    if not comparison.error <= TOLERANCE:
        raise ClusterError(f"{text}; expected at most {TOLERANCE:g}. This is a bug: report it.")
    print(f"{text} (the two most similar answers differ by {comparison.closest:.1e})")
