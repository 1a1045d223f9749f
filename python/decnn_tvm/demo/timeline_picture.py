# SPDX-License-Identifier: Apache-2.0
"""Draw who computed which sample when, as a PNG."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.runtime.statistics import EventKind, TimelineEvent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW = 6
"""Samples in the picture."""
OTHER = "#a8a8a8"
WAITING = "#e3e3e3"
TRANSFERS: Mapping[EventKind, str] = {"send": "#000000", "receive": "#b8860b"}
ON_THE_WAY = "#9ec9e8"
_STAGE_HEIGHT, _TRANSFER_HEIGHT, _TRANSFER_OFFSET = 0.66, 0.1, 0.4


def window_of(timeline: Sequence[TimelineEvent], samples: int = WINDOW) -> list[int]:
    """Return consecutive samples from the middle of a stream, where it is in full swing."""
    numbers = sorted({event.sample for event in timeline})
    start = max(0, (len(numbers) - samples) // 2)
    return numbers[start : start + samples]


def on_the_way(timeline: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """Return when each device had parts of a value coming to it, as events of that device.

    A part leaves at the end of a "send" and is there at the start of a "receive". Senders of a
    movement are not told apart: an event lasts from the first that had sent to the last arrival.
    """
    sent: dict[tuple[int, str], list[TimelineEvent]] = {}
    arrived: dict[tuple[int, str, int], list[TimelineEvent]] = {}
    for event in timeline:
        if event.kind == "send":
            sent.setdefault((event.sample, event.stage), []).append(event)
        elif event.kind == "receive":
            arrived.setdefault((event.sample, event.stage, event.rank), []).append(event)
    found = []
    for (sample, stage, rank), parts in arrived.items():
        leaving = [event.end for event in sent.get((sample, stage), ()) if event.rank != rank]
        if leaving:
            last = max(parts, key=lambda part: part.start)
            found.append(dataclasses.replace(last, start=min(leaving), end=last.start))
    return found


def draw_timeline(
    timeline: Sequence[TimelineEvent], window: Sequence[int], path: Path, title: str
) -> None:
    """Draw one row per worker: stages coloured by sample, waiting in grey, transfers below.

    The band under a row shows when parts of a value were on their way to that worker.

    Parameters
    ----------
    timeline : sequence of TimelineEvent
        Of one session, of all kinds.
    window : sequence of int
        The samples to colour; their stages set the limits of the time axis.
    path : Path
        The picture.
    title : str
        Its title.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    chosen = [event for event in timeline if event.sample in window and event.kind == "compute"]
    start, end = min(e.start for e in chosen), max(e.end for e in chosen)
    ranks = sorted({event.rank for event in timeline})
    colours = {s: colormaps["tab10"](i % 10) for i, s in enumerate(window)}
    figure = Figure(figsize=(12, 1.8 + 0.8 * len(ranks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for event in on_the_way(timeline):
        if event.end > start and event.start < end:
            left, right = max(event.start, start), min(event.end, end)
            axes.barh(
                ranks.index(event.rank) + _TRANSFER_OFFSET,
                1e3 * (right - left),
                left=1e3 * (left - start),
                height=_TRANSFER_HEIGHT,
                color=ON_THE_WAY,
            )
    for event in sorted(timeline, key=lambda e: e.kind != "wait"):  # waiting lies beneath
        if event.end > start and event.start < end:
            _bar(axes, ranks.index(event.rank), event, start, end, colours)
    axes.set_yticks(range(len(ranks)), [f"worker {rank}" for rank in ranks])
    axes.set_ylim(len(ranks) - 0.5, -0.5)
    axes.set_xlim(0, 1e3 * (end - start))
    axes.set_xlabel("milliseconds")
    axes.set_title(title)
    labels = [Patch(color=colour, label=f"sample {s}") for s, colour in colours.items()]
    labels += [Patch(color=OTHER, label="other"), Patch(color=WAITING, label="waiting")]
    labels += [Patch(color=colour, label=kind) for kind, colour in TRANSFERS.items()]
    labels += [Patch(color=ON_THE_WAY, label="on the way")]
    figure.legend(handles=labels, loc="outside lower center", ncols=len(labels) // 2, frameon=False)
    figure.savefig(path, dpi=120)


def _bar(
    axes: Axes,
    row: int,
    event: TimelineEvent,
    start: float,
    end: float,
    colours: Mapping[int, object],
) -> None:
    left, right = max(event.start, start), min(event.end, end)
    transfer = TRANSFERS.get(event.kind)
    stage_colour = WAITING if event.kind == "wait" else colours.get(event.sample, OTHER)
    axes.barh(
        row + _TRANSFER_OFFSET if transfer else row,
        1e3 * (right - left),
        left=1e3 * (left - start),
        height=_TRANSFER_HEIGHT if transfer else _STAGE_HEIGHT,
        color=transfer or stage_colour,
        edgecolor="white" if event.kind == "compute" else "none",
        linewidth=0.5,
    )
    if event.kind == "compute" and right - left > 0.02 * (end - start):
        text = event.stage.removeprefix("stage")
        axes.text(1e3 * ((left + right) / 2 - start), row, text, ha="center", va="center")
