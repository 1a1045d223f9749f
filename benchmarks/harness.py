# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: interleaved timing, the options, the table and the JSON report."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from decnn_tvm.cli.tables import print_table

PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "ncnn", "numpy")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of one contestant: the median of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds)

    def times_faster_than(self, other: Timing) -> float:
        """Return the median over rounds of the other's time by this one's in the same round."""
        return statistics.median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


def interleave(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time the contestants in turn.

    Parameters
    ----------
    contestants
        What to call, by name.
    rounds
        How often everyone has a turn; the order rotates.
    seconds
        Length of a turn, in which a contestant is called at least three times.
    """
    names = list(contestants)
    for call in contestants.values():
        call()
    medians: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in [*names[shift:], *names[:shift]]:
            medians[name].append(statistics.median(_turn(contestants[name], seconds)))
    return {name: Timing(tuple(values)) for name, values in medians.items()}


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def use_one_core() -> None:
    """Keep this process on one of its cores, so that engines can't differ in what they use."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@dataclass(frozen=True, slots=True)
class Figure:
    """An acceptance figure: at least `aim` is wanted, or `at_most` that."""

    value: float
    aim: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the aim is reached."""
        return self.value <= self.aim if self.at_most else self.value >= self.aim


def parser(module: str, description: str, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; those that take turns give `rounds`."""
    result = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    if rounds is not None:
        result.add_argument(
            "--rounds", type=int, default=rounds, help="turns of every contestant (%(default)s)"
        )
    return result


def progress(text: str) -> None:
    """Say on standard error what happens now."""
    print(text, file=sys.stderr, flush=True)


def report(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Figure],
    path: Path | None,
) -> None:
    """Print the rows and the acceptance figures, and write them to `path` if it is given."""
    columns = list(rows[0]) if rows else []
    print_table(title, columns, [[_cell(row[column]) for column in columns] for row in rows])
    figures = [
        (name, _cell(figure.value), _aim(figure), "yes" if figure.met else "NO")
        for name, figure in summary.items()
    ]
    print_table("acceptance figures", ["figure", "measured", "aim", "met"], figures)
    if path is not None:
        write(title, rows, summary, path)


def write(
    title: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Figure], path: Path
) -> None:
    """Write the rows and the acceptance figures to `path`."""
    data = {
        "title": title,
        "environment": environment(),
        "rows": list(rows),
        "summary": {
            name: {"value": figure.value, "aim": figure.aim, "met": figure.met}
            for name, figure in summary.items()
        },
    }
    path.write_text(json.dumps(data, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Return date, machine and versions."""
    return {
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _aim(figure: Figure) -> str:
    return f"{'at most' if figure.at_most else 'at least'} {_cell(figure.aim)}"


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)
