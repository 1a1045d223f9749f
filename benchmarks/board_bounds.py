# SPDX-License-Identifier: Apache-2.0
"""What limits emulated boards: how fast they compute, and how fast their links move bytes."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass

from benchmarks.emulated_boards import START, EmulatedBoards
from decnn_tvm.package import Package
from decnn_tvm.runtime import Cluster, Session
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing.process_output import first_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What limits a board: images per second that it computes, bytes that it moves for each."""

    images: float
    moved: float

    def rate(self, part: float) -> float:
        """Return the link's bits per second at which transfer is `part` of computing."""
        return 8 * self.moved * self.images / part

    def smaller(self, part: float) -> float:
        """Return images per second of what limits more."""
        return min(self.images, self.images / part)


def compute_bound(boards: EmulatedBoards, package: Package, seconds: float = 6.0) -> float:
    """Return images per second of the slowest board on ready data, all of them at work."""
    program = (sys.executable, "-m", "benchmarks.ready_data", str(package.path))
    running = [
        boards.start(rank, *program, str(rank), str(seconds)) for rank in range(boards.count)
    ]
    return min(float(json.loads(first_line(process, START))) for process in running)


def moved_bytes(cluster: Cluster, session: Session, image: Array, images: int = 20) -> float:
    """Return the bytes that a board sends or receives for an image, the larger, of the worst."""
    workers = cluster.workers

    def traffic() -> list[tuple[int, int]]:
        seen = [worker.observe() for worker in workers]
        return [(sum(o.sent_bytes.values()), sum(o.received_bytes.values())) for o in seen]

    session.run(image)
    before = traffic()
    for _ in session.stream(itertools.repeat(image, images)):
        pass
    after = traffic()
    return max(
        max(a - b for a, b in zip(new, old, strict=True)) / images
        for new, old in zip(after, before, strict=True)
    )
