# SPDX-License-Identifier: Apache-2.0
"""Who does what when: a row for each device, stages coloured by sample, messages beneath."""

from __future__ import annotations

from collections.abc import Sequence

from decnn_tvm.report.drawing import COLOURS, Drawing, legend, shortened, ticks
from decnn_tvm.runtime.statistics import TimelineEvent

WIDTH, ROW, LEFT = 960.0, 38.0, 110.0
SAMPLES = 6
"""Samples in the middle of the stream that are shown."""
MAX_ROWS = 12
SHORTEST = 1e-9
"""Seconds that a picture shows at least."""


def draw_timeline(events: Sequence[TimelineEvent], names: Sequence[str]) -> str:
    """Return the picture and its legend; times are counted from its left edge."""
    numbers = sorted({event.sample for event in events})
    first = max(0, (len(numbers) - SAMPLES) // 2)
    chosen = numbers[first : first + SAMPLES]
    ranks = sorted({event.rank for event in events if event.rank >= 0})
    devices = ranks[:MAX_ROWS]
    stages = [event for event in events if event.sample in chosen and event.kind == "compute"]
    start = min((event.start for event in stages), default=0.0)
    end = max((event.end for event in stages), default=0.0)
    if end - start < SHORTEST:
        return "<p>No stage takes time here.</p>"
    scale = (WIDTH - LEFT - 10) / (end - start)
    drawing = Drawing(WIDTH, ROW * len(devices) + 48, "Timeline of the devices")
    for row, rank in enumerate(devices):
        drawing.text(0, ROW * row + 21, shortened(names[rank], 16), "name")
        drawing.rect(LEFT, ROW * row + 6, WIDTH - LEFT - 10, 20, "idle")
    bottom = ROW * len(devices) + 4
    for tick in ticks(1e3 * (end - start), 8):
        x = LEFT + tick * scale / 1e3
        drawing.line(x, 0, x, bottom, "grid")
        drawing.text(x, bottom + 14, f"{tick:g}", "small", "middle")
    for event in events:
        if event.rank in devices and event.end > start and event.start < end:
            _event(drawing, event, devices.index(event.rank), start, end, scale)
    drawing.text((LEFT + WIDTH) / 2, bottom + 32, "time, milliseconds", "axis", "middle")
    if len(ranks) > MAX_ROWS:
        drawing.text(0, bottom + 32, f"and {len(ranks) - MAX_ROWS} more devices", "small")
    keys = [(f"f{n % COLOURS}", f"sample {n}") for n in chosen]
    return drawing.svg() + legend(
        [*keys, ("idle", "waits"), ("sends", "sends"), ("receives", "receives")]
    )


def _event(
    drawing: Drawing, event: TimelineEvent, row: int, start: float, end: float, scale: float
) -> None:
    left, right = max(event.start, start), min(event.end, end)
    x, width = LEFT + (left - start) * scale, (right - left) * scale
    what = {"compute": "computes", "send": "sends", "receive": "receives", "wait": "waits"}
    took = 1e3 * (event.end - event.start)
    title = f"{what[event.kind]} {event.stage}, sample {event.sample}: {took:.2f} ms"
    y = ROW * row
    if event.kind == "compute":
        drawing.rect(x, y + 6, width, 20, f"f{event.sample % COLOURS} edge", title)
        if width > 34:
            label = event.stage.removeprefix("stage")
            drawing.text(x + width / 2, y + 20, label, "inside", "middle")
    elif event.kind == "send":
        drawing.rect(x, y + 27, width, 3.5, "sends", title)
    elif event.kind == "receive":
        drawing.rect(x, y + 31, width, 3.5, "receives", title)
