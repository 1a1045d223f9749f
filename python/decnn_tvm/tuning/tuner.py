# SPDX-License-Identifier: Apache-2.0
"""Tune the layers of a network: find them, search each one's space, report."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm_ffi

from decnn_tvm.calibration import unit_limits
from decnn_tvm.compiler import split_network, uses_winograd, with_image_input
from decnn_tvm.custom_passes import apply_passes
from decnn_tvm.errors import InputError
from decnn_tvm.lowering import lower_stages
from decnn_tvm.network import Network
from decnn_tvm.plan import Strategy
from decnn_tvm.targets import CpuTarget, resolve_target
from decnn_tvm.tuning.board_check import check_host
from decnn_tvm.tuning.cost_model import CostModel
from decnn_tvm.tuning.measurement import Measurer, Runner
from decnn_tvm.tuning.records import Records, records_to_write
from decnn_tvm.tuning.report import (
    ProgressCallback,
    TaskReport,
    TuningProgress,
    TuningReport,
)
from decnn_tvm.tuning.task_tuning import TaskTuning
from decnn_tvm.tuning.tasks import TuningTask, find_tasks
from decnn_tvm.tuning.tracker import Tracker

TRIALS = 16
TIMEOUT = 20.0

# MetaSchedule calls back into Python, and Ctrl-C there would come out as a RuntimeError.
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)


def tune(
    network: Network,
    database: Path | str,
    *,
    strategy: Strategy = "channels",
    workers: int | None = None,
    shares: Sequence[int] | None = None,
    all_shares: bool | None = None,
    target: str | Mapping[str, Any] = "host",
    cores: int | None = None,
    wire: str = "float32",
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    row_tiles: int = 1,
    winograd: bool | None = None,
    trials: int = TRIALS,
    tracker: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
    passes: Sequence[Any] = (),
    progress: ProgressCallback | None = None,
    runner: Runner | None = None,
) -> TuningReport:
    """Measure schedules of the layers of `network` and keep them in the folder `database`.

    What the folder holds already is not measured again, and what was measured stays there if the
    run is interrupted. `decnn_tvm.compile` uses it with ``records=database``.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    database : Path or str
        Folder of a MetaSchedule JSON database; made if it is not there.
    strategy, workers, shares, all_shares, cores, wire, image_mean, image_std, row_tiles, winograd
        As for `decnn_tvm.compile`: they decide which layers there are. Only the shares asked for
        are tuned by default, since every one has layers of its own.
    target : str or dict
        What to tune for; see `decnn_tvm.targets.resolve_target`.
    trials : int
        Candidates to measure per layer, with those that the folder holds.
    tracker, key : str, optional
        ``host:port`` of an RPC tracker and the key of the boards to measure on; by default this
        machine is measured.
    timeout : float
        Seconds that building, or timing, one candidate may take. A late one fails in this run, and
        is tried again in the next.
    passes : sequence of tvm.transform.Pass
        As for `decnn_tvm.compile`: they decide which layers there are, too.
    progress : callable, optional
        Told after each candidate.
    runner : Runner, optional
        Times libraries instead of MetaSchedule's runners.

    Raises
    ------
    PartitionError, CompileError
        As for `decnn_tvm.compile`.
    RecordsError
        The folder is damaged or can't be written, or another run tunes into it.
    InputError
        `trials` or `timeout` is not above 0; `tracker` is no address, or one of `tracker` and `key`
        is missing; or this machine, measured without them, can't run code for `target`.
    ClusterError
        No tracker answers, or it has no device under the key.
    """
    start = time.monotonic()
    _check_limits(trials, timeout)
    boards = _boards(tracker, key)
    resolved = resolve_target(target, cores=cores)
    if boards is None and runner is None:
        check_host(resolved)
    with records_to_write(Path(database)) as records:
        if boards is not None:
            boards.check()
        network = apply_passes(with_image_input(network, image_mean, image_std), passes)
        split = split_network(
            network,
            workers,
            shares,
            bool(all_shares),
            wire,
            unit_limits,
            row_tiles,
            strategy=strategy,
        )
        chosen = uses_winograd(network, winograd)
        tasks = find_tasks(
            lower_stages(mod, resolved.target, winograd=chosen) for mod in split.values()
        )
        with Measurer(resolved, timeout=timeout, tracker=boards, runner=runner) as measurer:
            tunings = _tune_all(tasks, resolved, records, measurer, trials, progress)
    return TuningReport(
        target=resolved.name,
        database=str(database),
        seconds=time.monotonic() - start,
        tasks=_reports(tasks, tunings),
    )


def _check_limits(trials: int, timeout: float) -> None:
    if trials < 1:
        raise InputError(f"trials={trials}: expected at least 1 candidate per layer")
    if not 0 < timeout < math.inf:
        raise InputError(f"timeout={timeout}: expected a number of seconds above 0")


def _boards(tracker: str | None, key: str | None) -> Tracker | None:
    if tracker is not None:
        return Tracker.parse(tracker, key)
    if key is not None:
        raise InputError(
            f"key {key!r}: expected a tracker too, which knows the boards of that key, such as "
            "127.0.0.1:9190"
        )
    return None


def _tune_all(
    tasks: Sequence[TuningTask],
    target: CpuTarget,
    records: Records,
    measurer: Measurer,
    trials: int,
    progress: ProgressCallback | None,
) -> list[TaskTuning]:
    model, clock = CostModel(), _Clock(len(tasks), trials)
    tunings = []
    for index, task in enumerate(tasks):
        tuning = TaskTuning(task, target.target, records, model, trials)

        def report(index: int = index, tuning: TaskTuning = tuning) -> None:
            if progress is not None:
                progress(_state(index, tasks, tuning, clock.left(index, tuning)))

        report()
        tuning.run(measurer, report)
        tunings.append(tuning)
    return tunings


class _Clock:
    """Estimates the time left from the trials done."""

    def __init__(self, tasks: int, trials: int) -> None:
        self._start = time.monotonic()
        self._tasks, self._trials = tasks, trials
        self._done: dict[int, int] = {}

    def left(self, index: int, tuning: TaskTuning) -> float | None:
        self._done[index] = tuning.new
        done = sum(self._done.values())
        if not done:
            return None
        rest = tuning.trials - tuning.new + self._trials * (self._tasks - index - 1)
        return (time.monotonic() - self._start) / done * rest


def _state(
    index: int, tasks: Sequence[TuningTask], tuning: TaskTuning, left: float | None
) -> TuningProgress:
    return TuningProgress(
        task=index,
        tasks=len(tasks),
        name=tasks[index].name,
        trial=tuning.new,
        trials=tuning.trials,
        best_us=_microseconds(tuning.best),
        before_us=_microseconds(tuning.before),
        failed=sum(tuning.failures.values()),
        seconds_left=left,
    )


def _reports(tasks: Sequence[TuningTask], tunings: Sequence[TaskTuning]) -> tuple[TaskReport, ...]:
    total = sum(
        task.weight * (tuning.before or 0.0) for task, tuning in zip(tasks, tunings, strict=True)
    )
    return tuple(
        TaskReport(
            name=task.name,
            weight=task.weight,
            candidates=len(tuning.candidates),
            measured=len(tuning.times()),
            new=tuning.new,
            before_us=_microseconds(tuning.before),
            after_us=_microseconds(tuning.best),
            share=task.weight * (tuning.before or 0.0) / total if total else 0.0,
            failures=dict(tuning.failures),
        )
        for task, tuning in zip(tasks, tunings, strict=True)
    )


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e6 * seconds
