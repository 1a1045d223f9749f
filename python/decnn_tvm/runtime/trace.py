# SPDX-License-Identifier: Apache-2.0
"""A session's timeline in the Trace Event Format, which chrome://tracing and Perfetto open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decnn_tvm.runtime.statistics import EventKind, TimelineEvent

KINDS: tuple[EventKind, ...] = ("compute", "wait", "send", "receive")
# The rows of a device: a wait stands between the stages that it keeps apart.
_ROWS: dict[EventKind, int] = {"compute": 0, "wait": 0, "send": 1, "receive": 2}
_ROW_NAMES = ("compute", "send", "receive")


def chrome_trace(events: Sequence[TimelineEvent], names: Sequence[str]) -> dict[str, Any]:
    """Return a trace as JSON data: a process for every device, with rows for what it does.

    Parameters
    ----------
    events : sequence of TimelineEvent
        Of all kinds, on one clock; the trace starts at the first event.
    names : sequence of str
        What the devices are called, by rank.
    """
    origin = min((event.start for event in events), default=0.0)
    spans = [
        {
            "name": event.stage or event.kind,
            "cat": event.kind,
            "ph": "X",
            "ts": 1e6 * (event.start - origin),
            "dur": 1e6 * (event.end - event.start),
            "pid": event.rank,
            "tid": _ROWS[event.kind],
            "args": {"sample": event.sample},
        }
        for event in events
    ]
    return {"traceEvents": [*_titles(names), *spans], "displayTimeUnit": "ms"}


def _titles(names: Sequence[str]) -> list[dict[str, Any]]:
    processes = [
        {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": name}}
        for rank, name in enumerate(names)
    ]
    rows = [
        {"name": "thread_name", "ph": "M", "pid": rank, "tid": row, "args": {"name": title}}
        for rank in range(len(names))
        for row, title in enumerate(_ROW_NAMES)
    ]
    return [*processes, *rows]
