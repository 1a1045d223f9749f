# SPDX-License-Identifier: Apache-2.0
"""What keys cost on both planes: bytes per second and round trips, with and without, in turn.

The data plane is two `ZmqTransport` in one process, over loopback, the control plane a worker
process. Everybody has the same cores, so sender and receiver share what they would not share on
two boards; a round trip has nothing to overlap.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, interleave, parser, progress, report
from decnn_tvm import LocalCluster
from decnn_tvm.errors import ClusterTimeout
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.remote_worker import CHUNK, RemoteWorker
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.wire import Header, Message, encode

SMALL, LARGE, IN_A_ROW = 64, 1 << 20, 32
"""Bytes of a message for round trips and for throughput, and how many of those go at once."""
HEADER = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
BACK = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=1, target=0)
GIGABIT = 125.0
"""MB/s of the link of a board: keys that allow it cost no throughput there."""
TIMEOUT = 30.0
PLAIN, KEYED = "no", "yes"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser("benchmarks.encryption", __doc__ or "", rounds=7).parse_args(arguments)
    with contextlib.ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        make_keys(folder)
        measures = {
            "data plane": {keys: _data(ends, keys == KEYED) for keys in (PLAIN, KEYED)},
            "control plane": {
                keys: _control(ends, folder if keys == KEYED else None) for keys in (PLAIN, KEYED)
            },
        }
        rows = [
            row for name, pairs in measures.items() for row in _rows(name, pairs, options.rounds)
        ]
    report("the price of keys", rows, _summary(rows), options.json)


Calls = tuple[Callable[[], object], Callable[[], object], int]
"""A round trip, a transfer, and the bytes of a transfer."""


def _rows(name: str, pairs: dict[str, Calls], rounds: int) -> Iterator[dict[str, Any]]:
    progress(name)
    trips = interleave({k: calls[0] for k, calls in pairs.items()}, rounds=rounds, seconds=0.3)
    bulk = interleave({k: calls[1] for k, calls in pairs.items()}, rounds=rounds, seconds=0.3)
    for keys, calls in pairs.items():
        yield {
            "plane": name,
            "keys": keys,
            "round trip µs": 1e6 * trips[keys].median,
            "MB/s": calls[2] / bulk[keys].median / 1e6,
            "times the round trip": 1 / trips[keys].times_faster_than(trips[PLAIN]),
            "times the rate": bulk[keys].times_faster_than(bulk[PLAIN]),
        }


def _data(ends: contextlib.ExitStack, encrypt: bool) -> Calls:
    first, second = ZmqTransport(encrypt=encrypt), ZmqTransport(encrypt=encrypt)
    ends.callback(first.close)
    ends.callback(second.close)
    first.connect({1: f"127.0.0.1:{second.locator}"})
    second.connect({0: f"127.0.0.1:{first.locator}"})
    small, large = os.urandom(SMALL), os.urandom(LARGE)

    def receive(transport: ZmqTransport) -> None:
        if not isinstance(transport.receive(TIMEOUT), Message):
            raise ClusterTimeout(f"no message within {TIMEOUT:g} s.")

    def trip() -> None:
        first.send(1, encode(HEADER, [small]))
        receive(second)
        second.send(0, encode(BACK, [small]))
        receive(first)

    def transfer() -> None:
        for _ in range(IN_A_ROW):
            first.send(1, encode(HEADER, [large]))
        for _ in range(IN_A_ROW):
            receive(second)

    return trip, transfer, IN_A_ROW * LARGE


def _control(ends: contextlib.ExitStack, keys: Path | None) -> Calls:
    cluster = ends.enter_context(LocalCluster(1, keys=keys))
    worker: RemoteWorker = cluster.workers[0]
    pieces = [os.urandom(CHUNK) for _ in range(8)]
    worker.call("open")

    def upload() -> None:
        worker.upload("file", pieces, threading.Event())

    return lambda: worker.call("observe"), upload, 8 * CHUNK


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    keyed = {row["plane"]: row for row in rows if row["keys"] == KEYED}
    return {
        "data plane with keys, MB/s": Figure(keyed["data plane"]["MB/s"], GIGABIT),
        "control plane with keys, MB/s": Figure(keyed["control plane"]["MB/s"], GIGABIT),
    }


if __name__ == "__main__":
    main()
