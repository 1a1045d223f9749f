# SPDX-License-Identifier: Apache-2.0
"""``decnn compile``: a model in, a package for several devices out."""

from __future__ import annotations

import argparse
import contextlib
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.connection import add_cluster, cluster_of
from decnn_tvm.cli.image_options import add_calibration, add_pixels, image_options
from decnn_tvm.cli.options import (
    Commands,
    add_command,
    add_model,
    add_split,
    load_model,
    split_options,
)
from decnn_tvm.cli.planning_options import add_goal, ranking_of, with_pixels
from decnn_tvm.cli.show_plan import summarize
from decnn_tvm.errors import InputError

if TYPE_CHECKING:
    from decnn_tvm.network import Network

EXAMPLE = """\
  decnn compile resnet50.onnx -o resnet50.pkg --workers 4
  decnn compile grouped.onnx -o grouped.pkg --shares 2,1,1 --wire float16
  decnn compile resnet50.onnx -o strips.pkg --workers 4 --strategy rows
  decnn compile grouped.onnx -o grouped.pkg --wire int8 --calibrate photos/ --uint8-input
  decnn compile grouped.onnx -o grouped.pkg --workers 4 --records records/
  decnn compile grouped.onnx -o boards.pkg --workers 4 --target host --target rpi4
  decnn compile grouped.onnx -o boards.pkg --cluster cluster.toml
  decnn compile resnet50.onnx -o best.pkg --cluster cluster.toml --plan auto --for latency"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "compile",
        "split and compile a model for several devices",
        "Split a model over devices, exactly, and compile it. A dense model is split into as many\n"
        "shares as asked for; a decoupled one along its channel groups. Other ways to share the\n"
        "work (--strategy) run on the same workers, to be compared.",
        EXAMPLE,
    )
    add_model(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="package to write or replace"
    )
    add_split(parser)
    add_cluster(parser, "compile for the workers in a cluster file and their targets")
    parser.add_argument(
        "--plan",
        choices=("auto",),
        help="let `decnn plan` choose strategy and shares for the cluster; refused where one "
        "device is faster",
    )
    add_goal(parser)
    parser.set_defaults(goal=None)  # so that it is seen where there is nothing to plan
    add_pixels(parser)
    add_calibration(parser)
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="'host' (default), a board such as rpi4, a CPU tag of TVM, or TVM's JSON; "
        "may be repeated",
    )
    parser.add_argument(
        "--records",
        metavar="FOLDER",
        help="what `decnn tune` measured; layers that it does not know get the analytic schedule",
    )
    parser.add_argument(
        "--no-shipped-records",
        action="store_false",
        dest="shipped_records",
        help="don't use the measurements that come with the library for some processors",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    _check_plan(options)
    targets = _use_cluster(options)
    network = load_model(options)
    images = image_options(options, network)
    names = _plan(options, network) if options.plan is not None else ()
    from decnn_tvm.compiler import compile_network

    with progress_bar() as progress:
        package = compile_network(
            network,
            options.output,
            targets=targets,
            records=options.records,
            shipped_records=options.shipped_records,
            worker_names=names,
            progress=progress,
            **images,
            **split_options(options),
        )
    summary = summarize(package)
    if options.json:
        print(json.dumps(summary, indent=2))
        return
    unit = package.plan.unit
    print(f"{options.output}: {summary['bytes'] / 1e6:.1f} MB, {summary['groups']} {unit}")
    print(f"{len(summary['stages'])} stages; movements: {_count(summary['movements'])}")
    for name, libraries in summary["targets"].items():
        counts = ", ".join(map(str, libraries))
        print(f"target {name}: libraries for {counts} {unit} on a device")


def _check_plan(options: argparse.Namespace) -> None:
    """Refuse what a plan decides itself, or can't foresee, and wishes where nothing is planned.

    Raises
    ------
    InputError
        Naming the options, and what to do.
    """
    if options.plan is None:
        wishes = {"--for": options.goal, "--profile": options.profile, "--memory": options.memory}
        if given := [name for name, value in wishes.items() if value is not None]:
            raise InputError(
                f"{', '.join(given)}: for a plan alone. Add --plan auto, or leave them out."
            )
        return
    if options.strategy != "channels" or options.workers or options.shares:
        raise InputError("--plan auto chooses strategy and shares itself: leave them out.")
    if options.target:
        raise InputError(
            "--target: --plan auto plans for the targets in the cluster file. Set `target` of its "
            "workers, and leave --target out."
        )
    if options.row_tiles != 1:
        raise InputError(
            "--row-tiles: --plan auto does not foresee what bands of rows bring. Leave it out, or "
            "compile with --workers or --shares instead of --plan."
        )


def _plan(options: argparse.Namespace, network: Network) -> tuple[str, ...]:
    """Put the strategy and the shares that are best into the options; return whom they are for.

    Raises
    ------
    PlanningError
        One device is faster.
    """
    ranking = ranking_of(options, with_pixels(network, options), wires=(options.wire,), exact=True)
    best, devices = ranking.best, ranking.speeds.machines.devices
    options.strategy, options.shares = best.alternative.strategy, best.shares
    names = tuple(devices[rank].name for rank in best.ranks)
    if not options.json:
        dealt = ", ".join(f"{n} {s}" for n, s in zip(names, best.shares, strict=True))
        print(
            f"plan: {best.alternative.name}; run it on {', '.join(names)} with --in-flight "
            f"{best.window}"
        )
        print(f"shares: {dealt}")
    return names


@contextlib.contextmanager
def progress_bar(description: str = "") -> Iterator[Callable[[str, float, float], None]]:
    """Show a bar on standard error while the block runs; yield what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal  # where it would leave a blank line
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(description, total=None)

        def report(name: str, step: float, steps: float) -> None:
            bar.update(task, description=name, completed=step, total=steps)

        yield report


def _use_cluster(options: argparse.Namespace) -> list[str | Mapping[str, Any]]:
    """Return the targets; let a cluster file say what the command line leaves open."""
    cluster = cluster_of(options)
    if cluster is not None and not (options.workers or options.shares or options.plan):
        options.workers = len(cluster.workers)
    if options.target or cluster is None:
        return [parse_target(name) for name in options.target or ["host"]]
    return list(cluster.targets)


def _count(movements: list[dict[str, str]]) -> str:
    kinds = [f"{movement['kind']} of {movement['wire']}" for movement in movements]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def parse_target(text: str) -> str | dict[str, Any]:
    """Return a target's name, or the dict that JSON text stands for.

    Raises
    ------
    InputError
        It is JSON nested too deeply to be read.
    """
    with contextlib.suppress(ValueError):
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise InputError(
                f"--target {reprlib.repr(text)}: nested too deeply; expected a name, or a target "
                "of TVM as JSON."
            ) from error
        if isinstance(data, dict):
            return data
    return text
