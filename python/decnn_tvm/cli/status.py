# SPDX-License-Identifier: Apache-2.0
"""``decnn status``: what workers do right now."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from decnn_tvm.cli.connection import add_connect, connection
from decnn_tvm.cli.options import Commands, add_command, add_keys, positive_seconds
from decnn_tvm.cli.tables import MEGA, console, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from decnn_tvm.runtime.watching import Seen

EXAMPLE = """\
  decnn status --connect 127.0.0.1:7000 127.0.0.1:7001
  decnn status --connect 192.168.0.11:7000 --keys keys/coordinator --once --json
  decnn status --cluster cluster.toml"""

COLUMNS = (
    "worker",
    "state",
    "network",
    "groups",
    "samples/s",
    "queue",
    "compute",
    "wait",
    "transfer",
    "memory MB",
    "sends MB/s",
    "gets MB/s",
    "refused",
)


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "status",
        "show what workers do",
        "Show what running workers do, live until Ctrl-C: state, channel groups, samples per\n"
        "second and under way, shares of the time, memory, and traffic by peer. It disturbs\n"
        "nothing, also where another coordinator's session runs.",
        EXAMPLE,
    )
    add_connect(parser, required=True)
    add_keys(parser)
    parser.add_argument(
        "--interval",
        type=positive_seconds,
        default=1.0,
        metavar="S",
        help="seconds between looks, and those over which rates are taken (1)",
    )
    parser.add_argument("--once", action="store_true", help="show one table, and leave")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for every look")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.errors import ClusterError
    from decnn_tvm.runtime.watching import Watcher

    found = connection(options)
    assert found is not None  # one of its options is required
    made = Watcher(found.addresses, keys=found.keys, insecure=options.insecure)
    with contextlib.closing(made) as watcher:
        watcher.look()
        if not (options.once or options.json) and sys.stdout.isatty():
            _show_live(watcher.look, options.interval)
        while True:
            time.sleep(options.interval)
            seen = watcher.look()
            if options.json:
                print(json.dumps({"workers": [one.to_json() for one in seen]}), flush=True)
            else:
                console().print(_table(seen))
            if options.once:
                break
    if missing := [one for one in seen if one.observation is None]:
        raise ClusterError("; ".join(one.error for one in missing))


def _show_live(look: Callable[[], list[Seen]], interval: float) -> NoReturn:
    from rich.live import Live

    with Live(_table(look()), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_table(look()), refresh=True)


def _table(seen: Sequence[Seen]) -> Table:
    return make_table("workers", COLUMNS, [_row(one) for one in seen], text=4)


def _row(seen: Seen) -> tuple[str, ...]:
    from decnn_tvm.runtime.observation import peer_name

    now, rates = seen.observation, seen.rates
    if now is None:
        return (seen.address, "unreachable", *[""] * (len(COLUMNS) - 2))

    def links(by_peer: dict[int, float]) -> str:
        return " ".join(f"{peer_name(r)}:{v / MEGA:.2f}" for r, v in sorted(by_peer.items()))

    return (
        seen.address,
        now.state,
        now.model or "-",
        ",".join(map(str, now.groups)) or "-",
        f"{rates.samples:.1f}",
        str(now.open_samples),
        f"{rates.compute:.0%}",
        f"{rates.wait:.0%}",
        f"{rates.transfer:.0%}",
        f"{now.resident_bytes / MEGA:.0f}",
        links(rates.sent),
        links(rates.received),
        str(now.refused_messages + now.refused_clients),
    )
