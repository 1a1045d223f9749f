# SPDX-License-Identifier: Apache-2.0
"""Curves of speed-up over devices, and bars of memory and of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decnn_tvm.report.drawing import COLOURS, Drawing, legend, shortened, ticks

WIDTH, HEIGHT, LEFT, BOTTOM = 960.0, 380.0, 60.0, 50.0
BAR = 26.0
NAMES = 250.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A line: points of (devices, times as fast); a limit is drawn dashed."""

    name: str
    points: Sequence[tuple[int, float]]
    limit: bool = False


def draw_curves(curves: Sequence[Curve], axis: str) -> str:
    """Return the picture and its legend; `axis` names the y axis."""
    most = max(count for curve in curves for count, _ in curve.points)
    solid = [y for curve in curves if not curve.limit for _, y in curve.points]
    # Limits far above what anything reaches would flatten all else.
    top = 1.15 * max(*solid, min(most, 1.6 * max(solid)))
    drawing = Drawing(WIDTH, HEIGHT, "Speed-up over the number of devices")

    def at(count: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 20) * (count - 1) / max(1, most - 1)
        return x, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * value / top

    for value in ticks(top):
        _, y = at(1, value)
        drawing.line(LEFT, y, WIDTH - 20, y, "grid")
        drawing.text(LEFT - 8, y + 4, f"{value:g}x", "small", "end")
    for count in sorted({count for curve in curves for count, _ in curve.points}):
        x, y = at(count, 0)
        drawing.line(x, y, x, y + 4, "lane")
        drawing.text(x, y + 18, str(count), "small", "middle")
    drawing.text((LEFT + WIDTH) / 2, HEIGHT - 8, "number of devices", "axis", "middle")
    drawing.upright(14, (HEIGHT - BOTTOM) / 2, axis)
    keys = []
    for index, curve in enumerate(curves):
        colour = index % COLOURS
        style = f"s{colour} limit" if curve.limit else f"s{colour} curve"
        points = _below(curve.points, top)
        if len(points) > 1:
            drawing.path([at(n, y) for n, y in points], style, curve.name)
        for devices, value in curve.points if not curve.limit else ():
            title = f"{curve.name}: {value:.2f} times on {devices}"
            drawing.dot(*at(devices, value), f"f{colour}", title)
        last, value = curve.points[-1]
        figure = f" (dashed): {value:.2g} times on {last}" if curve.limit else ""
        keys.append((f"f{colour}", curve.name + figure))
    return drawing.svg() + legend(keys)


def _below(points: Sequence[tuple[float, float]], top: float) -> list[tuple[float, float]]:
    """Return the part of a line up to where it leaves the picture."""
    inside = []
    for before, point in zip([None, *points], points, strict=False):
        if point[1] > top:
            if before is not None:
                part = (top - before[1]) / (point[1] - before[1])
                inside.append((before[0] + part * (point[0] - before[0]), top))
            break
        inside.append(point)
    return inside


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of parts, each (style, what it is, value), with an optional limit."""

    name: str
    parts: Sequence[tuple[str, str, float]]
    limit: float | None = None


def draw_bars(bars: Sequence[Bar], unit: str, axis: str) -> str:
    """Return horizontal stacked bars over an axis; a sentence where there is nothing to show."""
    if not any(value for bar in bars for _, _, value in bar.parts):
        return "<p>There is nothing to show.</p>"
    longest = max(sum(value for _, _, value in bar.parts) for bar in bars)
    limits = [bar.limit for bar in bars if bar.limit is not None and bar.limit < 4 * longest]
    top = 1.05 * max([longest, *limits])
    drawing = Drawing(WIDTH, BAR * len(bars) + 46, axis)
    scale = (WIDTH - NAMES - 90) / top
    for tick in ticks(top):
        x = NAMES + tick * scale
        drawing.line(x, 0, x, BAR * len(bars), "grid")
        drawing.text(x, BAR * len(bars) + 14, f"{tick:g}", "small", "middle")
    for row, bar in enumerate(bars):
        y, x = BAR * row + 4, NAMES
        drawing.text(NAMES - 8, y + 13, shortened(bar.name, 32), "name", "end")
        for style, what, value in bar.parts:
            drawing.rect(x, y, value * scale, BAR - 8, style, f"{what}: {value:.3g} {unit}")
            x += value * scale
        total = sum(value for _, _, value in bar.parts)
        drawing.text(x + 6, y + 13, f"{total:.3g} {unit}", "small")
        if bar.limit is not None and bar.limit <= top:
            at = NAMES + bar.limit * scale
            drawing.line(at, y - 3, at, y + BAR - 5, "bound")
    middle = (NAMES + WIDTH - 90) / 2
    drawing.text(middle, BAR * len(bars) + 34, axis, "axis", "middle")
    return drawing.svg()
