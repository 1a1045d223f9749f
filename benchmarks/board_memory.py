# SPDX-License-Identifier: Apache-2.0
"""Memory of processes seen from outside: Pss and swap, with mapped files as if all were touched."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

INTERVAL = 0.05
"""Seconds between two looks."""
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ (\d+) *(.*)$")
_FIELD = re.compile(r"^(Size|Pss|Swap): +(\d+) kB$")


class PeakMemory:
    """Looks at processes while a ``with`` block runs; `idle` is their memory at its beginning.

    Parameters
    ----------
    pids : sequence of int
        The processes.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)
        self.idle = [pss(pid) for pid in pids]
        self._mapped = [set(_files(pid)) for pid in pids]
        self.peak = list(self.idle)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    @property
    def above_idle(self) -> int:
        """Bytes of the process that took the most more."""
        return max(peak - idle for peak, idle in zip(self.peak, self.idle, strict=True))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        for rank, pid in enumerate(self._pids):
            self.peak[rank] += _untouched(pid, self._mapped[rank])

    def _watch(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self.look()

    def look(self) -> None:
        """Look once more than `INTERVAL` asks for."""
        for rank, pid in enumerate(self._pids):
            self.peak[rank] = max(self.peak[rank], pss(pid))


def pss(pid: int) -> int:
    """Return the proportional share of resident memory, and swap, of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Pss|Swap): +(\d+) kB$", text, re.MULTILINE))
    return sum(int(kib) << 10 for kib in found.values())


def _files(pid: int) -> dict[str, int]:
    """Return mapped files, and the bytes of each that are not in memory."""
    untouched: dict[str, int] = {}
    sizes: dict[str, int] = {}
    path, readable = "", False
    for line in [*Path(f"/proc/{pid}/smaps").read_text().splitlines(), "0-0 ---p 0 0:0 0 "]:
        if match := _MAPPING.match(line):
            if path and readable:
                missing = max(0, sizes["Size"] - sizes["Pss"] - sizes["Swap"])
                untouched[path] = untouched.get(path, 0) + (missing << 10)
            readable = match[1].startswith("r")
            path, sizes = match[3] if match[2] != "0" else "", {}
        elif match := _FIELD.match(line):
            sizes[match[1]] = int(match[2])
    return untouched


def _untouched(pid: int, before: set[str]) -> int:
    """Return the bytes of files that a process maps since then, and that are not in memory."""
    return sum(size for path, size in _files(pid).items() if path not in before)
