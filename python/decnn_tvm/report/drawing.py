# SPDX-License-Identifier: Apache-2.0
"""Pieces of SVG: shapes whose colours are the page's, and axes with names and units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

COLOURS = 8
"""Colours of the page, ``--c0`` to ``--c7``, that tell series and samples apart."""


class Drawing:
    """An SVG picture that grows by shapes.

    Parameters
    ----------
    width, height : float
        Size in the picture's own units; the page scales it.
    label : str
        What it shows, for who can't see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self._label = width, height, label
        self._parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        title: str = "",
        radius: float = 0.0,
    ) -> None:
        """Draw a rectangle; `title` shows under the pointer."""
        shape = (
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" '
            f'height="{max(height, 0):.2f}" rx="{radius:g}" class="{style}"'
        )
        self._parts.append(
            f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a line."""
        self._parts.append(
            f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" class="{style}"/>'
        )

    def path(self, points: Iterable[tuple[float, float]], style: str, title: str = "") -> None:
        """Draw a line through points."""
        way = " L".join(f"{x:.2f} {y:.2f}" for x, y in points)
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(f'<path d="M{way}" class="{style}">{inner}</path>')

    def dot(self, x: float, y: float, style: str, title: str = "") -> None:
        """Draw a point."""
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(
            f'<circle cx="{x:.2f}" cy="{y:.2f}" r="3.5" class="{style}">{inner}</circle>'
        )

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Write a text; `anchor` is start, middle or end."""
        self._parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" class="{style}">'
            f"{escape(text)}</text>"
        )

    def upright(self, x: float, y: float, text: str) -> None:
        """Write a text from bottom to top, centred at a point."""
        self._parts.append(
            f'<text transform="translate({x:.2f} {y:.2f}) rotate(-90)" text-anchor="middle" '
            f'class="axis">{escape(text)}</text>'
        )

    def svg(self) -> str:
        """Return the picture."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self._label, quote=True)}">{"".join(self._parts)}</svg>'
        )


def ticks(limit: float, count: int = 5) -> list[float]:
    """Return round numbers from 0 to about `limit`, some `count` of them."""
    if limit <= 0:
        return [0.0]
    raw = limit / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    return [i * step for i in range(int(limit / step + 1e-9) + 1)]


def shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return a legend in HTML: pairs of a style and what it stands for."""
    items = "".join(
        f'<li><svg viewBox="0 0 18 12" class="key"><rect x="0" y="1" width="18" height="10" '
        f'class="{style}"/></svg>{escape(text)}</li>'
        for style, text in entries
    )
    return f'<ul class="legend">{items}</ul>'
