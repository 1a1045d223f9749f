# SPDX-License-Identifier: Apache-2.0
"""The search for one layer: measure the candidates that the cost model thinks best of.

The spaces are small enough to be enumerated, so nothing is sampled at random: MetaSchedule's
``ReplayFunc`` would draw candidates blindly and the same one twice. The analytic schedule is
measured first. The first batch follows the analytic model's order, or the cost model's where other
layers have taught it; every later one is what the cost model, trained on all that was measured so
far, expects to be fastest of the rest.

A failure is kept, and never tried again, where the candidate is to blame: the analytic schedule
still works then. A time-out, a full disk, or a lost board says nothing of it.

Of many noisy timings the best one flatters. So the winner is timed again, in turn with the
analytic schedule, until its median has `CONFIRMED` timings, or another one is ahead.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import tvm
from tvm import s_tir

from decnn_tvm.errors import RecordsError
from decnn_tvm.tuning.cost_model import CostModel, tuning_context
from decnn_tvm.tuning.measurement import BLAMED, BOARD_LOST, Measurer, Outcome
from decnn_tvm.tuning.records import FAILED, Records, as_module
from decnn_tvm.tuning.tasks import TuningTask

logger = logging.getLogger(__name__)

BATCH = 5
CONFIRMED = 3


class TaskTuning:
    """The state of the search for one layer.

    Attributes
    ----------
    candidates
        The schedules by the text of their trace; the analytic one first.
    new
        Candidates that were measured by this run.
    failures
        Those of them that failed, by cause.
    """

    def __init__(
        self,
        task: TuningTask,
        target: tvm.target.Target,
        records: Records,
        model: CostModel,
        trials: int,
    ) -> None:
        self._task, self._target = task, target
        self._records, self._model = records, model
        self._context = tuning_context(as_module(task.layer), target)
        self.candidates = {
            str(schedule.trace): schedule for schedule in self._context.generate_design_space()
        }
        self.new = 0
        self.failures: Counter[str] = Counter()
        self._libraries: dict[str, Path] = {}
        self._tried: set[str] = set()
        known = self.times()
        self.trials = max(0, min(trials, len(self.candidates)) - len(known))
        self._learn(list(known))

    def times(self) -> dict[str, list[float]]:
        """Return the measurements of the candidates, in seconds."""
        known = self._records.times(self._task.layer, self._target)
        return {text: known[text] for text in self.candidates if text in known}

    def medians(self) -> dict[str, float]:
        """Return the seconds of the candidates that work."""
        found = {text: median(seconds) for text, seconds in self.times().items()}
        return {text: seconds for text, seconds in found.items() if seconds < FAILED}

    @property
    def before(self) -> float | None:
        """Seconds of the analytic schedule."""
        return self.medians().get(self.default)

    @property
    def best(self) -> float | None:
        """Seconds of the fastest schedule."""
        return min(self.medians().values(), default=None)

    @property
    def default(self) -> str:
        """The trace of the analytic schedule."""
        return next(iter(self.candidates))

    def run(self, measurer: Measurer, done: Callable[[], None]) -> None:
        """Measure what is left of the trials; call `done` after each."""
        while self.new < self.trials:
            batch = self._next_batch(min(BATCH, self.trials - self.new))
            if not batch:
                break
            self._measure(measurer, batch, done)
            self._learn(batch)
        self._confirm(measurer)  # also what an interrupted run has not confirmed

    def _next_batch(self, size: int) -> list[str]:
        """Return the candidates to measure next; the analytic one is never left out."""
        done = self._tried | set(self.times())
        rest = [text for text in self.candidates if text not in done]
        first = rest[:1] if rest and rest[0] == self.default else []
        rest = [text for text in rest if text not in first]
        ordered = self._model.order(self._context, [self.candidates[text] for text in rest])
        return [*first, *(str(schedule.trace) for schedule in ordered)][:size]

    def _measure(self, measurer: Measurer, batch: Sequence[str], done: Callable[[], None]) -> None:
        schedules = [self.candidates[text] for text in batch]
        libraries = measurer.build(schedules)
        built = zip(batch, libraries, strict=True)
        self._libraries |= {text: each for text, each in built if isinstance(each, Path)}
        outcomes = measurer.time(libraries, schedules)
        self._tried |= set(batch)
        for schedule, outcome in zip(schedules, outcomes, strict=True):
            if outcome.failure is None:
                self._keep(schedule, median(outcome.seconds))
            else:
                self._note_failure(measurer, schedule, outcome)
            self.new += 1
            done()

    def _note_failure(self, measurer: Measurer, schedule: s_tir.Schedule, outcome: Outcome) -> None:
        logger.warning("%s: %s: %s", self._task.name, outcome.failure, outcome.cause)
        self.failures[str(outcome.failure)] += 1
        if outcome.failure == BOARD_LOST:
            measurer.wait_for_board()
            self._tried.discard(str(schedule.trace))
        elif outcome.failure in BLAMED and self._analytic_works(measurer, schedule):
            self._keep(schedule, FAILED)  # it need not be tried again

    def _analytic_works(self, measurer: Measurer, failed: s_tir.Schedule) -> bool:
        """Build and time the analytic schedule: where it fails, not a candidate is to blame."""
        if str(failed.trace) == self.default:
            return False
        self._libraries.pop(self.default, None)
        return self._time(measurer, self.default).failure is None

    def _keep(self, schedule: s_tir.Schedule, seconds: float) -> None:
        try:
            self._records.add(self._task.layer, self._target, schedule.trace, seconds)
        except RecordsError as error:  # a full disk costs the record, not the run
            logger.warning("%s", error)

    def _learn(self, texts: Sequence[str]) -> None:
        times = self.times()
        known = [text for text in texts if text in times]
        if known:
            self._model.learn(
                self._context,
                [self.candidates[text] for text in known],
                [median(times[text]) for text in known],
            )

    def _confirm(self, measurer: Measurer) -> None:
        """Time the winner and the analytic schedule in turn, until the winner is certain."""
        for _ in self.candidates:
            medians = self.medians()
            best = min(medians, key=medians.__getitem__, default=None)
            if best is None or len(self.times()[best]) >= CONFIRMED:
                return
            rivals = [best, self.default] if self.default in medians else [best]
            for text in rivals * (CONFIRMED - 1):
                if not self._time_again(measurer, text) and text == best:
                    return

    def _time_again(self, measurer: Measurer, text: str) -> bool:
        outcome = self._time(measurer, text)
        if outcome.failure is None:
            self._keep(self.candidates[text], median(outcome.seconds))
        return outcome.failure is None

    def _time(self, measurer: Measurer, text: str) -> Outcome:
        schedule = self.candidates[text]
        if text not in self._libraries:
            (library,) = measurer.build([schedule])
            if isinstance(library, Outcome):
                return library
            self._libraries[text] = library
        (outcome,) = measurer.time([self._libraries[text]], [schedule])
        return outcome
