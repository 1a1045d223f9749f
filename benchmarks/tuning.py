# SPDX-License-Identifier: Apache-2.0
"""Tuning: how soon it is near its best, on this machine and on two boards behind a tracker.

The layers of a network are tuned from nothing with our templates, here and through an RPC tracker
that two servers of this machine are registered with, and with the space that TVM's MetaSchedule
makes by itself, with as many trials. Winograd's method, which that space lacks, is left out. Near
means within 95 % of the best speed that the same run finds in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tvm
from tvm import relax
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from benchmarks.harness import Figure, parser, progress, report
from benchmarks.single_device import SUBJECTS, Subject
from decnn_tvm.compiler import split_network
from decnn_tvm.lowering import fusion_passes
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.boards import running_server, running_tracker
from decnn_tvm.tuning.measurement import EVALUATOR, Measurer, Outcome
from decnn_tvm.tuning.records import structural_key
from decnn_tvm.tuning.report import TuningProgress
from decnn_tvm.tuning.tuner import TIMEOUT, TRIALS, tune

NEAR = 0.95
MINUTES = 15.0
KEY = "benchmark"
# What TVM calls the kernels of layers; its tuner would tune pooling and the like too.
_LAYER = re.compile("conv|dense|matmul")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of tuning a network.

    Attributes
    ----------
    minutes
        That it took.
    trials
        That were measured.
    trials_to_near
        After which a layer was near its best: one number per layer.
    best_ms
        The fastest kernels of all layers, summed over their places in the network.
    minutes_to_near
        That the trials up to there took, over all layers; None where that is not known.
    """

    minutes: float
    trials: int
    trials_to_near: tuple[int, ...]
    best_ms: float
    minutes_to_near: float | None = None


def templates(
    subject: Subject, trials: int, *, tracker: str | None = None, key: str | None = None
) -> Run:
    """Tune with our templates."""
    clock: dict[int, list[tuple[float, float | None]]] = defaultdict(list)

    def note(state: TuningProgress) -> None:
        clock[state.task].append((time.monotonic(), state.best_us))
        if state.trial == state.trials:
            progress(f"  layer {state.task + 1} of {state.tasks}")

    with tempfile.TemporaryDirectory() as folder:
        done = tune(
            subject.network,
            folder,
            workers=subject.workers,
            trials=trials,
            progress=note,
            winograd=False,
            tracker=tracker,
            key=key,
        )
    # One note before the first trial, one after each.
    near = {
        task: next(i for i, (_, best) in enumerate(notes) if best and best <= notes[-1][1] / NEAR)
        for task, notes in clock.items()
        if notes[-1][1]
    }
    seconds = sum(clock[task][index][0] - clock[task][0][0] for task, index in near.items())
    return Run(
        minutes=done.seconds / 60,
        trials=sum(task.new for task in done.tasks),
        trials_to_near=tuple(near.values()),
        best_ms=done.after_us / 1e3,
        minutes_to_near=seconds / 60,
    )


def automatic(subject: Subject, trials: int) -> Run:
    """Tune the same layers in the space that MetaSchedule makes by itself."""
    (mod,) = split_network(subject.network, subject.workers, None, False, "float32").values()
    bare = mod.without_attr("decnn.weights").without_attr("decnn.plan")
    host = resolve_target("host")
    passes = [relax.transform.DecomposeOpsForInference(), relax.transform.LegalizeOps()]
    with host.target:
        fused = tvm.transform.Sequential([*passes, *fusion_passes()])(bare)
    found = ms.relax_integration.extract_tasks(fused, host.target)
    layers = [task for task in found if _LAYER.search(task.task_name)]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Measurer(host, timeout=TIMEOUT) as measurer:
        contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(
            layers, folder, seed=0
        )
        database = ms.tune_tasks(
            tasks=contexts,
            task_weights=weights,
            work_dir=folder,
            max_trials_global=trials * len(layers),
            max_trials_per_task=trials,
            num_trials_per_iter=max(1, trials // 2),
            builder=_Builder(measurer, Path(folder)),
            runner=ms.runner.LocalRunner(evaluator_config=EVALUATOR),
            task_scheduler="round-robin",
        )
        minutes = (time.monotonic() - start) / 60
        times = _times(database)
    best = {name: min(seconds) for name, seconds in times.items()}
    near = tuple(
        1 + next(i for i, value in enumerate(seconds) if value <= best[name] / NEAR)
        for name, seconds in times.items()
    )
    total = 0.0
    for task in layers:
        key = structural_key(task.dispatched[0])
        total += task.weight * best.get(key, float("inf"))
    return Run(
        minutes=minutes,
        trials=sum(map(len, times.values())),
        trials_to_near=near,
        best_ms=1e3 * total,
    )


@derived_object
class _Builder(ms.builder.PyBuilder):  # type: ignore[misc]
    """Builds as our tuner does; MetaSchedule's own builder ran into its time limit every time."""

    def __init__(self, measurer: Measurer, folder: Path) -> None:
        super().__init__()
        self._measurer, self._folder = measurer, folder

    def build(
        self, build_inputs: Sequence[ms.builder.BuilderInput]
    ) -> list[ms.builder.BuilderResult]:
        """Return a library for each module, or what kept it from being built."""
        return [self._result(built) for built in self._measurer.build(build_inputs)]

    def _result(self, built: Path | Outcome) -> ms.builder.BuilderResult:
        if isinstance(built, Outcome):
            return ms.builder.BuilderResult(None, built.cause)
        # MetaSchedule removes the folder of a library that it has timed.
        own = tempfile.mkdtemp(dir=self._folder)
        return ms.builder.BuilderResult(shutil.move(built, own), None)


def _times(database: Any) -> dict[int, list[float]]:
    """Return the seconds of each layer's trials, in their order; failed ones are infinite."""
    times: dict[int, list[float]] = defaultdict(list)
    for record in database.get_all_tuning_records():
        seconds = [float(value) for value in record.run_secs or [float("inf")]]
        times[structural_key(record.workload.mod)].append(median(seconds))
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    subject = SUBJECTS[options.network]()
    progress("templates, this machine")
    runs = {"templates, this machine": templates(subject, options.trials)}
    progress("templates, two boards behind a tracker")
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(running_tracker())
        for _ in range(2):
            stack.enter_context(running_server(address, KEY))
        runs["templates, two boards behind a tracker"] = templates(
            subject, options.trials, tracker=address, key=KEY
        )
    progress("TVM's automatic space, this machine")
    runs["TVM's automatic space, this machine"] = automatic(subject, options.trials)
    rows = [
        {
            "network": options.network,
            "run": name,
            "layers": len(run.trials_to_near),
            "trials": run.trials,
            "minutes": run.minutes,
            "trials to 95 %, median": median(run.trials_to_near),
            "trials to 95 %, most": max(run.trials_to_near),
            "minutes to 95 %": run.minutes_to_near,
            "all layers, ms": run.best_ms,
        }
        for name, run in runs.items()
    ]
    here, boards_run, tvm_run = runs.values()
    summary = {
        "trials to 95 %, most of a layer": Figure(max(here.trials_to_near), 16, at_most=True),
        f"{options.network}: minutes, this machine": Figure(here.minutes, MINUTES, at_most=True),
        f"{options.network}: minutes, tracker": Figure(boards_run.minutes, MINUTES, at_most=True),
        "automatic space ms / templates ms": Figure(tvm_run.best_ms / here.best_ms, 1.0),
    }
    report("tuning from nothing", rows, summary, options.json)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("benchmarks.tuning", __doc__ or "")
    options.add_argument(
        "--network", default="resnet50", choices=list(SUBJECTS), help="%(choices)s (%(default)s)"
    )
    options.add_argument(
        "--trials", type=int, default=TRIALS, metavar="N", help="candidates per layer (%(default)s)"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
