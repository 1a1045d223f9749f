# SPDX-License-Identifier: Apache-2.0
"""The trace of a real run, read from its file."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.statistics import TimelineEvent
from decnn_tvm.runtime.trace import KINDS

LONGEST = 1e18
"""Microseconds beyond this are damage."""


def read_trace(path: Path) -> tuple[list[TimelineEvent], list[str]]:
    """Read what ``decnn run --trace`` wrote: the events, and the devices' names.

    Raises
    ------
    InputError
        There is no such file, it is no trace, or no stage in it takes time.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
        if sorted(names) != [*range(len(names))]:
            raise ValueError(f"processes {reprlib.repr(sorted(names))}; expected 0, 1, 2, …")
        found = [_traced(event, names) for event in events if event["ph"] == "X"]
        stages = [event for event in found if event.kind == "compute"]
        if stages and not any(event.end > event.start for event in stages):
            raise ValueError("no stage takes any time")
        return found, [str(names[rank]) for rank in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"trace {path}: no trace of a run ({type(error).__name__}: {error}). "
            "`decnn run --trace FILE.json` writes one."
        ) from error


def _traced(event: dict[str, Any], ranks: Collection[int]) -> TimelineEvent:
    if event["cat"] not in KINDS:
        raise ValueError(f"an event of {reprlib.repr(event['cat'])}; expected {', '.join(KINDS)}")
    rank, sample = event["pid"], event["args"]["sample"]
    if type(rank) is not int or rank not in ranks or type(sample) is not int:
        raise ValueError(f"sample {reprlib.repr(sample)} on process {reprlib.repr(rank)}")
    start, took = (_microseconds(event[key]) for key in ("ts", "dur"))
    return TimelineEvent(
        rank=rank,
        kind=event["cat"],
        sample=sample,
        stage=str(event["name"]),
        start=1e-6 * start,
        end=1e-6 * (start + took),
    )


def _microseconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= LONGEST:
        raise ValueError(f"a time of {reprlib.repr(value)} us")
    return float(value)
