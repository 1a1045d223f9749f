# SPDX-License-Identifier: Apache-2.0
"""Scenes of `benchmarks.boards`: turns on workers of this machine, and what rows make of turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import psutil
import pytest

from benchmarks import board_parties
from benchmarks.board_contestants import Contestant, Scene
from benchmarks.board_parties import EngineParty, EnginesTurn, WorkerParty, WorkersTurn
from benchmarks.board_scene import Measuring, best_engines, rows_of
from benchmarks.emulated_boards import EmulatedBoards
from decnn_tvm.compiler import compile_network
from decnn_tvm.frontend import load
from decnn_tvm.runtime import Session
from decnn_tvm.testing.equality import random_inputs, reference_outputs
from decnn_tvm.testing.graph_builder import GraphBuilder
from decnn_tvm.testing.process_output import first_line

SPLIT = Contestant(network="tiny", strategy="channels", boards=2, wire="float32")
SCENE = Scene(setting="a", boards=2, encrypted=True, delay=0.0, model="tiny", contestants=(SPLIT,))


class Loopback:
    """Boards without namespaces or quotas."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.working: set[int] = set()

    def launch_worker(
        self, rank: int, keys: Path | None = None
    ) -> tuple[str, subprocess.Popen[bytes]]:
        """Start a worker."""
        assert keys is None
        command = [sys.executable, "-m", "decnn_tvm.runtime.worker", "--until-eof"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.processes.append(process)
        port = json.loads(first_line(process, 30))["port"]
        return f"{self.host}:{port}", process

    def take_in(self, rank: int, pid: int) -> None:
        """Note who works."""
        assert self.processes[rank].pid == pid
        self.working.add(pid)

    def let_out(self, pid: int) -> None:
        """Note who rests."""
        self.working.remove(pid)

    def close(self) -> None:
        """End the workers, as the end of their input asks them to."""
        for process in self.processes:
            process.communicate(timeout=30)


@pytest.fixture
def boards() -> Iterator[Loopback]:
    found = Loopback()
    yield found
    found.close()


def test_workers_take_a_turn(boards: Loopback, tmp_path: Path) -> None:
    graph = GraphBuilder("tiny", seed=3, batch=1, opset=17)
    x = graph.relu(graph.conv("first", graph.input("input", 3, 9), 16, 3, padding=1))
    x = graph.relu(graph.conv("second", x, 16, 3, padding=1))
    model = graph.model(graph.linear("fc", graph.flatten(x), 10))
    onnx.save(model, tmp_path / "tiny.onnx")
    compile_network(
        load(tmp_path / "tiny.onnx"), tmp_path / SPLIT.package, strategy="channels", workers=2
    )
    images = random_inputs((1, 3, 9, 9), 3)
    np.save(tmp_path / "tiny.reference.npy", np.stack(reference_outputs(model, images)))

    emulated = cast("EmulatedBoards", boards)
    with WorkerParty(emulated, SPLIT, tmp_path, None, np.stack(images)) as party:
        party.observe_memory(2)
        turn = party.turn(0.2, 2)
    assert party.error < 1e-6
    assert 0 < turn.latency < 10 and 0 < turn.rate < 1e5
    assert 0 < turn.compute < 1 / turn.rate and turn.wait > 0
    # What the second convolution and the classifier need of the other half, in float32.
    assert party.sent > 8 * 9 * 9 * 4 and party.received > 8 * 9 * 9 * 4
    assert party.memory > 0 and not boards.working
    assert all(psutil.pid_exists(process.pid) for process in boards.processes)


def test_a_rate_is_that_of_the_stream_in_full_swing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(board_parties.time, "perf_counter", lambda: now)

    def stream(images: Iterable[int], *, in_flight: int) -> Iterator[int]:
        """Take the first images at once and the last results late, as a pipeline does."""
        nonlocal now
        waiting = []
        for image in images:
            waiting.append(image)
            if len(waiting) == in_flight:
                now += 0.5
                yield waiting.pop(0)
        for image in waiting:
            now += 3.0
            yield image

    session = cast("Session", SimpleNamespace(stream=stream))
    rate, count = board_parties.throughput(session, [7, 8, 9], 4, 10.0)  # type: ignore[list-item]
    assert rate == 2.0 and count > 20


class Engine:
    """An engine whose turns take given seconds."""

    def __init__(self, engine: str, threads: int, seconds: float) -> None:
        self.engine, self.threads, self._seconds = engine, threads, seconds
        self.screened, self.memory, self.closed = 0.0, 3e8, False

    def turn(self, seconds: float) -> EnginesTurn:
        """Take a turn."""
        return EnginesTurn(self._seconds, self._seconds, self._seconds / 4)

    def close(self) -> None:
        """End it."""
        self.closed = True


def engine(name: str, threads: int, seconds: float) -> EngineParty:
    return cast("EngineParty", Engine(name, threads, seconds))


def test_engines_take_part_with_their_better_number_of_threads() -> None:
    all_ = [
        engine("ONNX Runtime", 1, 0.2),
        engine("ONNX Runtime", 2, 0.3),
        engine("ncnn", 1, 0.9),
        engine("ncnn", 2, 0.5),
    ]
    best = list(best_engines(all_, 1.0))
    assert [(one.engine, one.threads, one.screened) for one in best] == [
        ("ONNX Runtime", 1, 0.2),
        ("ncnn", 2, 0.5),
    ]
    assert [cast("Engine", one).closed for one in all_] == [False, True, True, False]


def test_speeds_are_against_the_faster_engine_in_the_same_round() -> None:
    engines = [engine("ONNX Runtime", 1, 0.4), engine("ncnn", 2, 0.6)]
    party = SimpleNamespace(contestant=SPLIT, memory=5e7, sent=2e6, received=1e6, error=1e-7)
    turns = [
        (
            [EnginesTurn(mean, mean, mean / 4), EnginesTurn(0.6, 0.6, 0.15)],
            [WorkersTurn(latency, 10.0, 0.02, 0.03, 0.01)],
        )
        for mean, latency in ((0.4, 0.1), (0.5, 0.1), (0.3, 0.2))
    ]
    measuring = Measuring(rounds=3, seconds=1.0, window=4)
    first, second, split = rows_of(
        SCENE, measuring, engines, engines, [cast("WorkerParty", party)], turns
    )
    assert (first["contestant"], first["threads"], first["boards"]) == ("ONNX Runtime", 1, 1)
    assert (first["latency ms"], second["latency ms"]) == (400.0, 600.0)
    assert first["memory MB"] == 300.0
    # Rounds give 4, 5 and 1.5 times the latency, and 4, 5 and 3 times the throughput.
    assert split["times the latency"] == 4.0 and split["times the throughput"] == 4.0
    assert (split["network"], split["boards"], split["wire"]) == ("tiny", 2, "float32")
    assert split["memory MB"] == 50.0 and split["largest error"] == 1e-7
