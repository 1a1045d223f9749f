# SPDX-License-Identifier: Apache-2.0
"""Who takes turns in a scene of `benchmarks.boards`: engines on a board, workers on several."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.board_contestants import Contestant
from benchmarks.board_memory import PeakMemory
from benchmarks.emulated_boards import EmulatedBoards, processor_seconds
from decnn_tvm.package import Package
from decnn_tvm.runtime import Cluster, Session
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing.process_output import first_line

PATIENCE = 120.0
"""Seconds that an answer from a board may take."""
# A quota makes threads wait their turn: no reason to give a board up, or to move its groups.
POLICY = Policy(silence=10.0, beat=1.0, rebalance=False)


@dataclass(frozen=True, slots=True)
class EnginesTurn:
    """Seconds for an image, and of processor time."""

    mean: float
    median: float
    processor: float


@dataclass(frozen=True, slots=True)
class WorkersTurn:
    """What workers did: seconds of an image alone; the stream.

    Attributes
    ----------
    latency : float
        Median seconds of an image alone.
    rate : float
        Images per second of the stream.
    processor, compute, wait : float
        Seconds for an image of the stream, of the board that took most processor time: of its
        processor, in stages, and without a stage that was ready.
    """

    latency: float
    rate: float
    processor: float
    compute: float
    wait: float


class EngineParty:
    """ONNX Runtime or ncnn in a process on a board, loaded."""

    def __init__(
        self,
        boards: EmulatedBoards,
        rank: int,
        engine: str,
        packages: Path,
        model: str,
        threads: int,
    ) -> None:
        self.engine, self.threads, self.screened = engine, threads, 0.0
        program = (sys.executable, "-m", "benchmarks.board_engine")
        self._process = boards.start(
            rank, *program, engine, str(packages.absolute()), model, str(threads)
        )
        first_line(self._process, PATIENCE)
        with PeakMemory([self._process.pid]) as memory:
            outputs = np.array(self._ask("load"))
            self._ask("0.5")
        self.memory = memory.above_idle
        reference = np.load(packages / f"{model}.reference.npy").reshape(outputs.shape)
        self.error = _error(outputs, reference)
        if not self.error <= 1e-4:
            raise AssertionError(f"{engine}: outputs are off by {self.error:.1e}")

    def turn(self, seconds: float) -> EnginesTurn:
        """Run images one by one."""
        before = processor_seconds(self._process.pid)
        times = self._ask(f"{seconds}")
        used = processor_seconds(self._process.pid) - before
        return EnginesTurn(statistics.mean(times), statistics.median(times), used / len(times))

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(first_line(self._process, PATIENCE))


class WorkerParty:
    """A package at work on workers of its own, one on each of the first boards.

    Use it in a ``with`` block.
    """

    def __init__(
        self,
        boards: EmulatedBoards,
        contestant: Contestant,
        packages: Path,
        keys: Path | None,
        pixels: Array,
    ) -> None:
        self.contestant, self._boards = contestant, boards
        self._images = list(pixels)
        self._package = Package(packages / contestant.package)
        self._reference = np.load(packages / f"{contestant.model}.reference.npy")
        self._ends = contextlib.ExitStack()
        self.memory = self.sent = self.received = 0.0
        self.error = float("nan")
        worker_keys = None if keys is None else keys / "worker"
        started = [boards.launch_worker(rank, worker_keys) for rank in range(contestant.boards)]
        self._pids = [process.pid for _, process in started]
        self._cluster = self._ends.enter_context(
            Cluster.connect(
                [address for address, _ in started],
                host=boards.host,
                keys=None if keys is None else keys / "coordinator",
                insecure=keys is None,
                timeout=PATIENCE,
            )
        )

    def __enter__(self) -> WorkerParty:
        with self._ends:
            self._memory = self._ends.enter_context(PeakMemory(self._pids))
            deployed = self._cluster.deploy(self._package, policy=POLICY)
            self._session = self._ends.enter_context(deployed)
            outputs = np.stack([np.asarray(self._session.run(image)) for image in self._images])
            self.error = _error(outputs, self._reference)
            self._ends = self._ends.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.close()

    def observe_memory(self, window: int) -> None:
        """Stream some images, and note the peak of memory since the deployment, and the bytes."""
        count = 4 * window
        self._come()
        before = self._traffic()
        for _ in self._session.stream(
            itertools.islice(itertools.cycle(self._images), count), in_flight=window
        ):
            pass
        moved = self._traffic() - before
        self.sent, self.received = moved.max(axis=0) / count
        self._memory.stop()
        self.memory = self._memory.above_idle
        self._go()

    def turn(self, seconds: float, window: int) -> WorkersTurn:
        """Run images one by one, then as a stream."""
        self._come()
        images = itertools.cycle(self._images)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            self._session.run(next(images))
            times.append(time.perf_counter() - start)
        before = self._work()
        rate, count = throughput(self._session, self._images, window, seconds)
        work = (self._work() - before) / count
        self._go()
        processor, compute, wait = work[work[:, 0].argmax()]
        return WorkersTurn(statistics.median(times), rate, processor, compute, wait)

    def _come(self) -> None:
        for rank, pid in enumerate(self._pids):
            self._boards.take_in(rank, pid)

    def _go(self) -> None:
        """Take nothing of the boards: heartbeats of all who wait are a tenth of an eighth core."""
        for pid in self._pids:
            self._boards.let_out(pid)

    def _traffic(self) -> Array:
        """Return bytes sent and received by rank."""
        seen = [worker.observe() for worker in self._cluster.workers]
        return np.array(
            [(sum(o.sent_bytes.values()), sum(o.received_bytes.values())) for o in seen]
        )

    def _work(self) -> Array:
        """Return seconds of processor time, in stages and waiting, by rank."""
        return np.array(
            [
                (processor_seconds(pid), stats.compute_seconds, stats.wait_seconds)
                for pid, stats in zip(self._pids, self._session.stats(), strict=True)
            ]
        )


def throughput(
    session: Session, images: Sequence[Array], window: int, seconds: float
) -> tuple[float, int]:
    """Return images per second of a stream in full swing, and how many images it had in all."""
    end = time.perf_counter() + seconds

    def source() -> Iterator[Array]:
        for number, image in enumerate(itertools.cycle(images)):
            if number > 4 * window and time.perf_counter() > end:
                return
            yield image

    ends = [time.perf_counter() for _ in session.stream(source(), in_flight=window)]
    full = ends[window - 1 : len(ends) - window + 1]
    return (len(full) - 1) / (full[-1] - full[0]), len(ends)


def _error(outputs: Array, reference: Array) -> float:
    return float(np.abs(outputs - reference).max() / np.abs(reference).max())
