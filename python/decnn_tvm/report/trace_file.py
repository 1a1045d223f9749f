# SPDX-License-Identifier: Apache-2.0
"""The trace of a real run, read from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.statistics import TimelineEvent


def read_trace(path: Path) -> tuple[list[TimelineEvent], list[str]]:
    """Read what ``decnn run --trace`` wrote: the events, and the devices' names.

    Raises
    ------
    InputError
        There is no such file, or it is no trace.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
        found = [_traced(event) for event in events if event["ph"] == "X"]
        return found, [str(names[rank]) for rank in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"trace {path}: no trace of a run ({type(error).__name__}: {error}). "
            "`decnn run --trace FILE.json` writes one."
        ) from error


def _traced(event: dict[str, Any]) -> TimelineEvent:
    start = 1e-6 * float(event["ts"])
    return TimelineEvent(
        rank=int(event["pid"]),
        kind=event["cat"],
        sample=int(event["args"]["sample"]),
        stage=str(event["name"]),
        start=start,
        end=start + 1e-6 * float(event["dur"]),
    )
