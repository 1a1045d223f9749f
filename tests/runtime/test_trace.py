# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from decnn_tvm.runtime.statistics import TimelineEvent
from decnn_tvm.runtime.trace import chrome_trace


def test_events_become_spans_on_the_rows_of_their_device() -> None:
    events = [
        TimelineEvent(rank=1, kind="send", sample=7, stage="a -> b", start=12.0, end=12.5),
        TimelineEvent(rank=0, kind="compute", sample=7, stage="stage0", start=10.0, end=11.0),
        TimelineEvent(rank=0, kind="wait", sample=7, stage="", start=11.0, end=11.25),
    ]
    trace = json.loads(json.dumps(chrome_trace(events, ["left", "right"])))
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    seen = [(e["pid"], e["tid"], e["name"], e["ts"], e["dur"]) for e in spans]
    assert seen == [
        (1, 1, "a -> b", 2e6, 5e5),
        (0, 0, "stage0", 0.0, 1e6),
        (0, 0, "wait", 1e6, 2.5e5),
    ]
    assert {event["args"]["sample"] for event in spans} == {7}
    titles = [event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"]
    assert titles == ["left", "right", *["compute", "send", "receive"] * 2]


def test_a_session_without_events_has_an_empty_trace() -> None:
    assert chrome_trace([], []) == {"traceEvents": [], "displayTimeUnit": "ms"}
