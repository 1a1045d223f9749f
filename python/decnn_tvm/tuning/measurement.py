# SPDX-License-Identifier: Apache-2.0
"""Build and time candidates in processes of their own, so that a bad one costs its trial alone.

Building runs in a pool that is kept for the whole run, since starting a process with TVM takes
longer than most kernels. Timing is MetaSchedule's `LocalRunner`, or its `RPCRunner` for boards;
libraries are linked here, so a board needs no compiler.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms
from tvm.support.popen_pool import MapResult, PopenPoolExecutor, StatusKind

from decnn_tvm.errors import ClusterError, CompileError, last_line
from decnn_tvm.linking import link_shared_library
from decnn_tvm.schedules.vectors import core_count
from decnn_tvm.targets import CpuTarget
from decnn_tvm.tuning.board_check import check_board
from decnn_tvm.tuning.tracker import Tracker

# Single runs, each after all but the first operand left the caches: that is how a network meets its
# weights. Tuned in a loop, with weights in the cache, ResNet-50 became slower rather than faster.
EVALUATOR = ms.runner.EvaluatorConfig(
    number=1, repeat=25, min_repeat_ms=0, enable_cpu_cache_flush=True
)
# TVM's build leaks, so that a process is replaced after so many candidates.
BUILDS_PER_PROCESS = 128

COMPILE_ERROR, RUN_ERROR, TIME_OUT = "compile error", "run error", "time-out"
NOT_LINKED, BOARD_LOST = "not linked", "board lost"
BLAMED = (COMPILE_ERROR, RUN_ERROR)
"""Failures that may be the candidate's; a time-out depends on the limit, the others on machines."""


class Runner(Protocol):
    """MetaSchedule's runners, as they are used here."""

    def run(self, runner_inputs: list[ms.runner.RunnerInput]) -> list[ms.runner.RunnerFuture]:
        """Start timing libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a candidate: seconds, or a failure.

    Attributes
    ----------
    seconds
        Of each repetition; empty after a failure.
    failure
        ``"compile error"``, ``"run error"``, ``"time-out"``, ``"not linked"`` (no linker, or a
        full disk) or ``"board lost"``; None after a success.
    cause
        The last line of the error.
    """

    seconds: tuple[float, ...] = ()
    failure: str | None = None
    cause: str = ""


class Measurer:
    """Builds and times candidates for one target.

    Parameters
    ----------
    target : CpuTarget
        What to build for.
    timeout : float
        Seconds that building, and timing, of one candidate may take.
    tracker : Tracker, optional
        Where the boards are; by default candidates run on this machine.
    runner : Runner, optional
        Times libraries instead of MetaSchedule's runners.
    """

    def __init__(
        self,
        target: CpuTarget,
        *,
        timeout: float,
        tracker: Tracker | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._tracker = tracker
        self._folder = tempfile.TemporaryDirectory(prefix="decnn-tune-")
        self._built = 0
        self._boards = tracker.check() if tracker else 1
        self._builder = PopenPoolExecutor(
            max_workers=max(1, min(4, len(os.sched_getaffinity(0)))),
            timeout=timeout,
            maximum_process_uses=BUILDS_PER_PROCESS,
            stderr=subprocess.DEVNULL,
        )
        self._pools = [self._builder]
        self._questions = self._builder  # where boards are asked; see `check_board`
        self._runner = runner or (self._remote(tracker) if tracker else self._local())

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all processes and remove what they built."""
        for pool in self._pools:
            pool.shutdown(wait=True)
        self._folder.cleanup()

    def build(self, schedules: Sequence[s_tir.Schedule]) -> list[Path | Outcome]:
        """Return a library for each schedule, or what kept it from being built."""
        jobs = [(schedule.mod, self._target, str(self._path())) for schedule in schedules]
        results = self._builder.map_with_error_catching(_build_job, jobs)
        return [
            _built(result, Path(path), self._timeout)
            for result, (_, _, path) in zip(results, jobs, strict=True)
        ]

    def time(
        self, libraries: Sequence[Path | Outcome], schedules: Sequence[s_tir.Schedule]
    ) -> Iterator[Outcome]:
        """Time libraries, as many at once as there are boards; failed builds are passed on."""
        pairs = list(zip(libraries, schedules, strict=True))
        for start in range(0, len(pairs), self._boards):
            some = pairs[start : start + self._boards]
            inputs = [_input(built, each) for built, each in some if isinstance(built, Path)]
            started = iter(zip(inputs, self._runner.run(inputs) if inputs else [], strict=True))
            for library, _ in some:
                if isinstance(library, Outcome):
                    yield library
                else:
                    one, future = next(started)
                    yield self._second_try(one, _outcome(future.result()))

    def wait_for_board(self) -> None:
        """Wait until a board answers again.

        Raises
        ------
        ClusterError
            None does within `decnn_tvm.tuning.tracker.PATIENCE` seconds.
        """
        if self._tracker is not None:
            self._tracker.wait_for_board(self._ask)

    def _second_try(self, one: ms.runner.RunnerInput, first: Outcome) -> Outcome:
        """Time a candidate again that has failed on a board, which may have been to blame."""
        if first.failure is None or self._tracker is None:
            return first
        if (lost := self._lost_board()) is not None:
            return lost
        (future,) = self._runner.run([one])
        second = _outcome(future.result())
        return second if second.failure is None else self._lost_board() or second

    def _lost_board(self) -> Outcome | None:
        try:
            self._ask()
        except ClusterError as error:
            return Outcome(failure=BOARD_LOST, cause=str(error))
        return None

    def _ask(self) -> None:
        if self._tracker is not None:
            check_board(self._tracker, self._target, self._questions, 2 * self._timeout)

    def _path(self) -> Path:
        self._built += 1
        return Path(self._folder.name) / f"candidate{self._built}.so"

    def _local(self) -> Runner:
        runner = ms.runner.LocalRunner(
            timeout_sec=self._timeout,
            evaluator_config=EVALUATOR,
            initializer=partial(_use_threads, core_count(self._target.target)),
        )
        self._pools.append(runner.pool)
        return runner  # type: ignore[no-any-return]

    def _remote(self, tracker: Tracker) -> Runner:
        runner = ms.runner.RPCRunner(
            ms.runner.RPCConfig(
                tracker_host=tracker.host,
                tracker_port=tracker.port,
                tracker_key=tracker.key,
                session_timeout_sec=max(1, round(self._timeout)),
            ),
            evaluator_config=EVALUATOR,
        )
        # Its own pool would wait for a board for ever.
        runner.pool.shutdown(wait=True)
        runner.pool = PopenPoolExecutor(
            max_workers=self._boards, timeout=2 * self._timeout, stderr=subprocess.DEVNULL
        )
        self._pools.append(runner.pool)
        self._questions = runner.pool
        self._ask()
        return runner  # type: ignore[no-any-return]


def _outcome(result: ms.runner.RunnerResult) -> Outcome:
    if result.error_msg is None:
        return Outcome(seconds=tuple(float(value) for value in result.run_secs))
    late = "timeout" in str(result.error_msg).lower()
    return Outcome(failure=TIME_OUT if late else RUN_ERROR, cause=_last_line(str(result.error_msg)))


def _input(library: Path, schedule: s_tir.Schedule) -> ms.runner.RunnerInput:
    arguments = ms.arg_info.ArgInfo.from_prim_func(schedule.mod["main"])
    return ms.runner.RunnerInput(str(library), "cpu", arguments)


def _build_job(job: tuple[tvm.IRModule, CpuTarget, str]) -> str | None:
    """Build a library in a process of the pool; return what kept this machine from linking it."""
    mod, target, path = job
    library = tvm.compile(mod, target=target.target)
    try:
        link_shared_library(library, Path(path), target.machine)
    except (CompileError, OSError) as error:
        return last_line(error)
    return None


def _built(result: MapResult, path: Path, timeout: float) -> Path | Outcome:
    if result.status == StatusKind.COMPLETE:
        return Outcome(failure=NOT_LINKED, cause=result.value) if result.value else path
    if result.status == StatusKind.TIMEOUT:
        return Outcome(failure=TIME_OUT, cause=f"building took over {timeout:g} s")
    return Outcome(failure=COMPILE_ERROR, cause=_last_line(str(result.value)))


def _use_threads(cores: int) -> None:
    """Give TVM's thread pool of a timing process as many threads as the target has cores."""
    os.environ["TVM_NUM_THREADS"] = str(cores)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
