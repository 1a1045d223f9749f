# SPDX-License-Identifier: Apache-2.0
"""``decnn tune``: measure schedules of a model's layers, here or on boards."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.compile import parse_target, progress_bar
from decnn_tvm.cli.connection import add_cluster, cluster_of
from decnn_tvm.cli.image_options import add_pixels, pixel_options
from decnn_tvm.cli.options import (
    Commands,
    add_command,
    add_model,
    add_split,
    load_model,
    positive,
    positive_seconds,
    split_options,
)
from decnn_tvm.cli.tables import print_table

if TYPE_CHECKING:
    from decnn_tvm.tuning.report import ProgressCallback, TaskReport, TuningProgress, TuningReport

EXAMPLE = """\
  decnn tune resnet50.onnx --workers 4 --records records/
  decnn compile resnet50.onnx -o resnet50.pkg --workers 4 --records records/
  decnn tune resnet50.onnx --workers 4 --records records/ \\
    --target rpi4 --tracker 127.0.0.1:9190 --key rpi4
  decnn tune resnet50.onnx --records records/ --cluster cluster.toml"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "tune",
        "measure schedules of a model's layers, for faster code",
        "Measure schedules of every distinct layer, on this machine or on boards that an RPC\n"
        "tracker knows, and keep them in a folder for `decnn compile --records`. What the folder\n"
        "holds is not measured again; Ctrl-C keeps what was measured. One run at a time may tune\n"
        "into a folder: for the host and for boards one after the other. Tune with the options\n"
        "that you compile with: they decide which layers there are. TVM's RPC authenticates\n"
        "nobody: reach boards through a tunnel, as docs/SECURITY.md shows.",
        EXAMPLE,
    )
    add_model(parser)
    parser.add_argument(
        "--records", required=True, metavar="FOLDER", help="where measurements are kept"
    )
    add_split(parser)
    add_cluster(parser, "take workers, tracker, key and target from a cluster file")
    add_pixels(parser)
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="'host' (default), a board such as rpi4, a CPU tag of TVM, or TVM's JSON",
    )
    parser.add_argument(
        "--trials", type=positive, default=16, metavar="N", help="candidates per layer (16)"
    )
    parser.add_argument(
        "--tracker", metavar="HOST:PORT", help="RPC tracker of the boards (default: no boards)"
    )
    parser.add_argument("--key", metavar="KEY", help="what the boards are registered as")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=20.0,
        metavar="SECONDS",
        help="limit for building, and for timing, one candidate (20)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    target = _use_cluster(options)
    network = load_model(options)
    from decnn_tvm.tuning.tuner import tune

    with _progress_display() as progress:
        report = tune(
            network,
            options.records,
            target=target,
            trials=options.trials,
            tracker=options.tracker,
            key=options.key,
            timeout=options.timeout,
            progress=progress,
            **pixel_options(options),
            **split_options(options),
        )
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)


def _use_cluster(options: argparse.Namespace) -> str | Mapping[str, Any]:
    """Return the target; let a cluster file say what the command line leaves open."""
    cluster = cluster_of(options)
    if cluster is not None:
        if not options.workers and not options.shares:
            options.workers = len(cluster.workers)
        options.tracker = options.tracker or cluster.tracker
        if options.tracker:
            board = cluster.board(options.key)
            options.key = board.tuning_key
            return parse_target(options.target) if options.target else board.target
    return parse_target(options.target or "host")


@contextlib.contextmanager
def _progress_display() -> Iterator[ProgressCallback]:
    """Show a bar on standard error or, where no person looks, a line for each layer."""
    last: TuningProgress | None = None
    lines = not sys.stderr.isatty()
    with progress_bar("finding the layers") as show:

        def report(state: TuningProgress) -> None:
            nonlocal last
            if lines and last is not None and last.task != state.task:
                _say(last)
            last = state
            done = state.task + (state.trial / state.trials if state.trials else 1.0)
            show(_describe(state), done, state.tasks)

        yield report
    if lines and last is not None:
        _say(last)


def _say(state: TuningProgress) -> None:
    print(f"{state.name}: {_describe(state)}", file=sys.stderr, flush=True)


def _describe(state: TuningProgress) -> str:
    parts = [f"layer {state.task + 1} of {state.tasks}, trial {state.trial} of {state.trials}"]
    if state.best_us is not None:
        parts.append(f"best {state.best_us:.1f} µs (was {_number(state.before_us)})")
    if state.failed:
        parts.append(f"{state.failed} failed")
    if state.seconds_left is not None:
        minutes, seconds = divmod(round(state.seconds_left), 60)
        parts.append(f"about {minutes}:{seconds:02} left")
    return ", ".join(parts)


def _show(report: TuningReport) -> None:
    columns = ("layer", "runs", "before µs", "after µs", "gain", "share", "measured", "failed")
    title = f"{len(report.tasks)} layers tuned for {report.target} in {report.seconds:.0f} s"
    print_table(title, columns, [_row(task) for task in report.tasks])
    for cause in sorted({cause for task in report.tasks for cause in task.failures}):
        count = sum(task.failures.get(cause, 0) for task in report.tasks)
        print(f"{count} candidates failed: {cause}")
    which = "all layers"
    if left_out := len(report.tasks) - len(report.compared):
        which = (
            f"{len(report.compared)} layers ({left_out} left out, where the analytic one failed)"
        )
    print(f"{which}: {report.before_us / 1e3:.3f} ms before, {report.after_us / 1e3:.3f} ms after")
    print(f"records: {report.database}; use them with `decnn compile --records {report.database}`")


def _row(task: TaskReport) -> tuple[str, ...]:
    gain = task.before_us / task.after_us if task.before_us and task.after_us else None
    return (
        task.name,
        str(task.weight),
        _number(task.before_us),
        _number(task.after_us),
        "failed" if gain is None else f"{gain:.2f}",
        f"{task.share:.1%}",
        f"{task.measured} of {task.candidates}",
        str(sum(task.failures.values())),
    )


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.1f}"
