# SPDX-License-Identifier: Apache-2.0
"""Curves of `benchmarks.boards`: times the faster engine over the number of boards, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.board_contestants import SETTINGS

FIGURES = ("times the throughput", "times the latency")
Row = Mapping[str, Any]


def curves(rows: Sequence[Row], setting: str, figure: str) -> dict[str, list[tuple[int, float]]]:
    """Return a curve for each way of sharing, with keys and without delay: the best of its wires.

    Points are (boards, times the faster engine); a way that was measured on one number of boards
    alone is a curve of one point.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        here = row["setting"] == setting and row["encrypted"] and not row["delay ms"]
        if here and row.get(figure) is not None:
            own = row["contestant"] == "decoupled"
            name = row["network"] if own else f"{row['network']} {row['contestant']}"
            points = found.setdefault(name, {})
            points[row["boards"]] = max(points.get(row["boards"], 0.0), row[figure])
    return {name: sorted(points.items()) for name, points in sorted(found.items())}


def draw_curves(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw a file for each setting that was measured: throughput and latency side by side."""
    paths = []
    for setting in SETTINGS:
        if any(curves(rows, setting, figure) for figure in FIGURES):
            paths.append(folder / f"boards-{setting}.svg")
            _draw(rows, setting, paths[-1])
    return paths


def _draw(rows: Sequence[Row], setting: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES, strict=True):
        for label, points in curves(rows, setting, name).items():
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axes.set_xlabel(f"boards of {SETTINGS[setting]}")
        axes.set_ylabel(name)
    axes.legend(fontsize="x-small")
    figure.suptitle("against the faster of ONNX Runtime and ncnn on one board", fontsize="medium")
    figure.savefig(path)
