# SPDX-License-Identifier: Apache-2.0
"""What this process and its workers take: processes, ports, descriptors, threads, memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from decnn_tvm.runtime.machine import trim


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A process, or the sum of several; bytes are resident ones."""

    processes: int
    ports: int
    descriptors: int
    threads: int
    megabytes: float


def footprint(pids: Sequence[int] = ()) -> Footprint:
    """Return the sum over processes, this one by default, with all their children."""
    trim()
    found = []
    for pid in pids or (os.getpid(),):
        process = psutil.Process(pid)
        found += [process, *(process.children(recursive=True) if pids else ())]
    children = psutil.Process().children(recursive=True) if not pids else ()
    return Footprint(
        processes=len(found) + len(children),
        ports=sum(
            1 for p in found for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ),
        descriptors=sum(p.num_fds() for p in found),
        threads=sum(p.num_threads() for p in found),
        megabytes=sum(p.memory_info().rss for p in found) / 1e6,
    )
