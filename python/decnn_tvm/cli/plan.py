# SPDX-License-Identifier: Apache-2.0
"""``decnn plan``: which way to run a model on a cluster, before anything is deployed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.options import Commands, add_command, add_model, load_model
from decnn_tvm.cli.planning_options import add_planning, ranking_of, with_pixels

if TYPE_CHECKING:
    from decnn_tvm.planning.planner import Ranked, Ranking

EXAMPLE = """\
  decnn plan resnet50.onnx --cluster cluster.toml
  decnn plan resnet50.onnx --cluster cluster.toml --for latency --memory 256M
  decnn plan resnet50.onnx --cluster cluster.toml --profile profile.json --exact"""

COLUMNS = (
    "alternative",
    "devices",
    "shares",
    "wire",
    "in flight",
    "latency ms",
    "samples/s",
    "memory MB",
    "sends MB",
)


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "plan",
        "choose the best way to run a model on a cluster",
        "Rank the ways to run a model on a cluster, real or made up, by simulation: one device,\n"
        "replicas, a layer pipeline, row strips, an exact channel split, and decoupled versions\n"
        "(which need training). Says why each of the others loses. Exit status 2 where several\n"
        "devices are not worth it.",
        EXAMPLE,
    )
    add_model(parser)
    add_planning(parser)
    parser.add_argument(
        "--exact", action="store_true", help="leave out decoupled versions, which need training"
    )
    parser.add_argument(
        "--wire",
        action="append",
        choices=("float32", "float16", "int8"),
        help="wire type that may be used; may be repeated (all)",
    )
    parser.add_argument("--json", action="store_true", help="print the ranking as JSON")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.planning.planner import WIRES

    network = with_pixels(load_model(options), options)
    ranking = ranking_of(options, network, wires=options.wire or WIRES, exact=options.exact)
    if options.json:
        print(json.dumps(_json(ranking), indent=2))
    else:
        show(ranking)
    _ = ranking.best  # raises with the figures where several devices are not worth it
    if not options.json:
        print(_how_to_run(ranking))


def show(ranking: Ranking) -> None:
    """Print the ranking as a table."""
    from decnn_tvm.cli.tables import print_table

    speeds = ranking.speeds
    known = "the cluster file and a table of processors"
    if speeds.measured or speeds.estimated:
        known = ", but for ".join(["a profile", *filter(None, [" and ".join(speeds.estimated)])])
    rows = [_row(entry) for entry in ranking.entries]
    print_table(f"by {ranking.goal}, from {known}", COLUMNS, rows, text=4)
    for entry in ranking.entries:
        if entry.reason:
            print(f"{entry.name}: {entry.reason}")


def _row(entry: Ranked) -> tuple[str, ...]:
    found = entry.estimate
    if found is None:
        return (entry.name, *["-"] * (len(COLUMNS) - 1))
    star = "" if found.alternative.trained else " *"
    return (
        entry.name + star,
        str(len(found.ranks)),
        ",".join(map(str, found.shares)) if len(found.shares) <= 8 else "…",
        found.wire,
        str(found.window),
        f"{1e3 * found.latency_seconds:.1f}",
        f"{found.samples_per_second:.2f}",
        f"{max(memory.total for memory in found.memory) / 1e6:.0f}",
        f"{max(found.sent_bytes) / 1e6:.3f}",
    )


def _how_to_run(ranking: Ranking) -> str:
    best = ranking.best
    names = [ranking.speeds.machines.devices[rank].name for rank in best.ranks]
    text = f"best: {best.alternative.name} on {', '.join(names) if len(names) <= 8 else len(names)}"
    if not best.alternative.trained:
        text += "; * needs training: see `decnn decouple` and `decnn finetune`"
    if best.wire == "int8":
        text += "; int8 wants --calibrate"
    return text + "."


def _json(ranking: Ranking) -> dict[str, Any]:
    return {
        "goal": ranking.goal,
        "measured": ranking.speeds.measured,
        "estimated": list(ranking.speeds.estimated),
        "refused": ranking.refused,
        "alternatives": [_entry_json(entry, ranking) for entry in ranking.entries],
    }


def _entry_json(entry: Ranked, ranking: Ranking) -> dict[str, Any]:
    found = entry.estimate
    data: dict[str, Any] = {"name": entry.name, "fits": entry.fits, "reason": entry.reason}
    if found is None:
        return data
    return data | {
        "strategy": found.alternative.strategy,
        "needs_training": not found.alternative.trained,
        "workers": [ranking.speeds.machines.devices[rank].name for rank in found.ranks],
        "shares": list(found.shares),
        "wire": found.wire,
        "in_flight": found.window,
        "latency_seconds": found.latency_seconds,
        "samples_per_second": found.samples_per_second,
        "memory_bytes": [memory.total for memory in found.memory],
        "sent_bytes_per_sample": list(found.sent_bytes),
        "coordinator_sent_bytes_per_sample": found.host_port.sent_bytes,
        "exchanges": found.exchanges,
    }
