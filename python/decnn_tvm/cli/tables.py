# SPDX-License-Identifier: Apache-2.0
"""Tables and numbers for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from decnn_tvm.runtime.statistics import DeviceStats

MEGA = 1e6
PIPE_WIDTH = 400
"""Columns where standard output is no terminal: enough to keep every row on a line of its own."""


def console() -> Console:
    """Return the console of standard output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1
) -> None:
    """Print a table; all but the first `text` columns are numbers, aligned to the right."""
    console().print(make_table(title, columns, rows, text=text))


def make_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1
) -> Table:
    """Return the table that `print_table` prints."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as ``1x3x224x224``."""
    return "x".join(map(str, shape))


def count_text(count: float) -> str:
    """Return a large count with three digits and a unit: ``4.09 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:g}"


def print_devices(stats: Sequence[DeviceStats]) -> None:
    """Print what each device holds and did, per image."""
    rows = []
    for device in stats:
        rows.append(
            (
                device.name,
                ",".join(map(str, device.groups)),
                f"{device.weight_bytes / MEGA:.1f}",
                f"{device.peak_bytes / MEGA:.1f}",
                f"{device.sent_bytes_per_image / MEGA:.3f}",
                f"{1e3 * device.compute_seconds_per_image:.1f}",
                f"{1e3 * device.wait_seconds_per_image:.1f}",
            )
        )
    columns = (
        "device",
        "groups",
        "weights MB",
        "peak MB above idle",
        "sent MB/image",
        "compute ms/image",
        "wait ms/image",
    )
    print_table("devices", columns, rows, text=2)
