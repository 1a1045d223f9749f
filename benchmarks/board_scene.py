# SPDX-License-Identifier: Apache-2.0
"""One scene of `benchmarks.boards`, measured inside of namespaces of its own.

``python -m benchmarks.board_scene PACKAGES OUT SCENE OPTIONS`` writes the rows to a file. ONNX
Runtime and ncnn have a board for themselves, so that idle workers take nothing of theirs. Every
contestant has workers of its own on the other boards; they take turns.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board_contestants import ENGINES, SETTINGS, THREADS, Scene
from benchmarks.board_parties import EngineParty, EnginesTurn, WorkerParty, WorkersTurn
from benchmarks.emulated_boards import EmulatedBoards
from benchmarks.harness import progress
from decnn_tvm.keys import make_keys

SETUP_CORES = 1.0
"""Cores of a board until everything is loaded."""
MEMORY = 4 << 30
"""Bytes of a board, of which there are such Raspberry Pis: all contestants are on it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How long everything is measured, and with how many images under way."""

    rounds: int
    seconds: float
    window: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a scene."""
    packages, out, scene, options = sys.argv[1:] if arguments is None else arguments
    rows = measure(
        Path(packages), Scene.from_json(json.loads(scene)), Measuring(**json.loads(options))
    )
    Path(out).write_text(json.dumps(rows))


def measure(packages: Path, scene: Scene, measuring: Measuring) -> list[dict[str, Any]]:
    """Return the rows of a scene: the engines', then the contestants'."""
    setting = SETTINGS[scene.setting]
    pixels = np.load(packages / "pixels.npy")
    with contextlib.ExitStack() as ends:
        boards = ends.enter_context(
            EmulatedBoards(scene.boards + 1, SETUP_CORES, scene.delay / 1e3, MEMORY)
        )
        keys = Path(ends.enter_context(tempfile.TemporaryDirectory())) if scene.encrypted else None
        if keys is not None:
            make_keys(keys)
        engines = [
            EngineParty(boards, scene.boards, engine, packages, scene.model, threads)
            for engine in ENGINES
            for threads in THREADS
        ]
        parties = [
            ends.enter_context(WorkerParty(boards, one, packages, keys, pixels))
            for one in scene.contestants
        ]
        for rank in range(scene.boards + 1):
            boards.slow_down(rank, setting.cores)
        boards.limit(setting.rate)
        for party in parties:
            party.observe_memory(measuring.window)
        best = list(best_engines(engines, measuring.seconds))
        turns = list(_rounds(best, parties, measuring))
        return rows_of(scene, measuring, engines, best, parties, turns)


def best_engines(engines: Sequence[EngineParty], seconds: float) -> Iterator[EngineParty]:
    """Yield each engine at its best number of threads; end the others."""
    for engine in ENGINES:
        alike = [one for one in engines if one.engine == engine]
        for one in alike:
            one.screened = one.turn(seconds).mean
        best = min(alike, key=lambda one: one.screened)
        for one in alike:
            if one is not best:
                one.close()
        yield best


def _rounds(
    engines: Sequence[EngineParty], parties: Sequence[WorkerParty], measuring: Measuring
) -> Iterator[tuple[list[EnginesTurn], list[WorkersTurn]]]:
    for number in range(measuring.rounds):
        first = [engine.turn(measuring.seconds) for engine in engines]
        shift = number % max(1, len(parties))
        order = [*range(shift, len(parties)), *range(shift)]
        found = {index: parties[index].turn(measuring.seconds, measuring.window) for index in order}
        progress(
            f"round {number + 1}: "
            + ", ".join(f"{1e3 * turn.mean:.1f} ms" for turn in first)
            + "; "
            + ", ".join(
                f"{1e3 * found[i].latency:.1f} ms, {found[i].rate:.2f}/s"
                for i in range(len(parties))
            )
        )
        yield first, [found[index] for index in range(len(parties))]


def rows_of(
    scene: Scene,
    measuring: Measuring,
    engines: Sequence[EngineParty],
    best: Sequence[EngineParty],
    parties: Sequence[WorkerParty],
    turns: Sequence[tuple[list[EnginesTurn], list[WorkersTurn]]],
) -> list[dict[str, Any]]:
    """Return a row for each of the `best` engines and of the parties, medians over the turns."""
    by_engine = [[turn[0][i] for turn in turns] for i in range(len(best))]
    fastest = min(by_engine, key=lambda each: statistics.median(t.mean for t in each))
    rows = []
    for engine, each in zip(best, by_engine, strict=True):
        rows.append(
            scene.place
            | {
                "network": scene.model,
                "contestant": engine.engine,
                "boards": 1,
                "wire": None,
                "window": 1,
                "threads": engine.threads,
                "latency ms": 1e3 * statistics.median(t.median for t in each),
                "images/s": statistics.median(1 / t.mean for t in each),
                "memory MB": engine.memory / 1e6,
                "processor ms": 1e3 * statistics.median(t.processor for t in each),
                "screened": ", ".join(
                    f"{one.threads}: {1e3 * one.screened:.0f} ms"
                    for one in engines
                    if one.engine == engine.engine
                ),
            }
        )
    for index, party in enumerate(parties):
        each_turn = [turn[1][index] for turn in turns]
        rows.append(
            scene.row_of(party.contestant) | _row(party, each_turn, fastest, measuring.window)
        )
    return rows


def _row(
    party: WorkerParty,
    turns: Sequence[WorkersTurn],
    fastest: Sequence[EnginesTurn],
    window: int,
) -> dict[str, Any]:
    pairs = list(zip(fastest, turns, strict=True))
    return {
        "window": window,
        "latency ms": 1e3 * statistics.median(t.latency for t in turns),
        "images/s": statistics.median(t.rate for t in turns),
        "times the throughput": statistics.median(t.rate * e.mean for e, t in pairs),
        "times the latency": statistics.median(e.median / t.latency for e, t in pairs),
        "memory MB": party.memory / 1e6,
        "sent MB": party.sent / 1e6,
        "received MB": party.received / 1e6,
        "largest error": party.error,
        "processor ms": 1e3 * statistics.median(t.processor for t in turns),
        "compute ms": 1e3 * statistics.median(t.compute for t in turns),
        "wait ms": 1e3 * statistics.median(t.wait for t in turns),
    }


if __name__ == "__main__":
    main()
