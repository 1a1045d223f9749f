# SPDX-License-Identifier: Apache-2.0
"""Draw who computed which sample when, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.runtime.statistics import TimelineEvent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW = 6
"""Samples in the picture."""
BAR = 0.7
WAITING = "#d9d9d9"
OTHER = "#a8a8a8"


def window_of(timeline: Sequence[TimelineEvent], samples: int = WINDOW) -> list[int]:
    """Return consecutive samples from the middle of a stream, where it is in full swing."""
    numbers = sorted({event.sample for event in timeline})
    start = max(0, (len(numbers) - samples) // 2)
    return numbers[start : start + samples]


def draw_timeline(
    timeline: Sequence[TimelineEvent], window: Sequence[int], path: Path, title: str
) -> None:
    """Draw one row per worker: stages coloured by sample, waiting in light grey.

    Parameters
    ----------
    timeline : sequence of TimelineEvent
        Of one session.
    window : sequence of int
        The samples to colour; they set the limits of the time axis.
    path : Path
        The picture.
    title : str
        Its title.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    chosen = [event for event in timeline if event.sample in window]
    start, end = min(e.start for e in chosen), max(e.end for e in chosen)
    ranks = sorted({event.rank for event in timeline})
    colours = {s: colormaps["tab10"](i % 10) for i, s in enumerate(window)}
    figure = Figure(figsize=(12, 1.6 + 0.7 * len(ranks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, rank in enumerate(ranks):
        events = [e for e in timeline if e.rank == rank and e.end > start and e.start < end]
        axes.barh(row, 1e3 * (end - start), height=BAR, color=WAITING)
        for event in events:
            _bar(axes, row, event, start, end, colours.get(event.sample, OTHER))
    axes.set_yticks(range(len(ranks)), [f"worker {rank}" for rank in ranks])
    axes.invert_yaxis()
    axes.set_xlim(0, 1e3 * (end - start))
    axes.set_xlabel("milliseconds")
    axes.set_title(title)
    labels = [Patch(color=colour, label=f"sample {s}") for s, colour in colours.items()]
    labels += [
        Patch(color=OTHER, label="other sample"),
        Patch(color=WAITING, label="waiting or transfer"),
    ]
    figure.legend(handles=labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=120)


def _bar(
    axes: Axes,
    row: int,
    event: TimelineEvent,
    start: float,
    end: float,
    colour: object,
) -> None:
    left, right = max(event.start, start), min(event.end, end)
    axes.barh(
        row,
        1e3 * (right - left),
        left=1e3 * (left - start),
        height=BAR,
        color=colour,
        edgecolor="white",
        linewidth=0.5,
    )
    if right - left > 0.02 * (end - start):
        text = event.stage.removeprefix("stage")
        axes.text(1e3 * ((left + right) / 2 - start), row, text, ha="center", va="center")
