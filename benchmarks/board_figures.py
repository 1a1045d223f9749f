# SPDX-License-Identifier: Apache-2.0
"""Rows of `benchmarks.boards` in order, and its acceptance figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.board_contestants import ENGINES
from benchmarks.harness import Figure

HEADLINE = "resnet50-x1.75-G4"
AIMS = {"a": (4.5, 3.6), "b": (4.5, 3.0)}
"""Times the throughput and the latency of the faster engine, with int8, by setting. Set by hand,
below the 5.03 times fewer multiply-accumulates of one of four boards."""
PAPER, MEMORY = 3.21, 0.25
"""Times the speed of one board with Du et al. (2021); the part of one board's memory, by hand."""
COLUMNS = (
    "setting",
    "encrypted",
    "delay ms",
    "boards",
    "network",
    "contestant",
    "wire",
    "tiles",
    "threads",
    "screened",
    "window",
    "latency ms",
    "images/s",
    "times the latency",
    "times the throughput",
    "memory MB",
    "sent MB",
    "received MB",
    "largest error",
    "processor ms",
    "compute ms",
    "wait ms",
    "date",
)


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the same columns each, by place, then boards, then network."""
    found = [{name: row.get(name) for name in COLUMNS} for row in rows]
    return sorted(
        found,
        key=lambda row: (
            row["setting"],
            not row["encrypted"],
            row["delay ms"],
            row["boards"],
            row["network"],
            row["contestant"] not in ENGINES,
            row["contestant"],
            str(row["wire"]),
        ),
    )


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Return what the headline rows reach."""
    found = {}
    for row in rows:
        headline = row["network"] == HEADLINE and row["boards"] == 4 and row.get("tiles") == 1
        if headline and row["encrypted"] and not row["delay ms"]:
            name = f"({row['setting']}) {row['wire']}"
            throughput, latency = AIMS[row["setting"]]
            if row["wire"] != "int8":
                throughput = latency = PAPER
            found[f"{name}: times the throughput"] = Figure(row["times the throughput"], throughput)
            found[f"{name}: times the latency"] = Figure(row["times the latency"], latency)
            others = [
                other["memory MB"]
                for other in rows
                if other["boards"] == 1 and other["network"] == "resnet50"
            ]
            if others:
                part = row["memory MB"] / min(others)
                found[f"{name}: memory of a board / the smallest of one"] = Figure(
                    part, MEMORY, at_most=True
                )
    return found
