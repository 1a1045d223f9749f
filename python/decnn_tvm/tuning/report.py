# SPDX-License-Identifier: Apache-2.0
"""What tuning says while it runs and when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningProgress:
    """How far a run is.

    Attributes
    ----------
    task, tasks
        Index of the layer, from 0, and their number.
    name
        Of the layer.
    trial, trials
        Candidates of this layer that are done, and those planned.
    best_us, before_us
        Microseconds of the fastest candidate so far and of the analytic one, once they are known.
    failed
        Candidates of this layer that failed.
    seconds_left
        Estimate for the whole run, once there is one.
    """

    task: int
    tasks: int
    name: str
    trial: int
    trials: int
    best_us: float | None = None
    before_us: float | None = None
    failed: int = 0
    seconds_left: float | None = None


ProgressCallback: TypeAlias = Callable[[TuningProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What tuning did to a layer.

    Attributes
    ----------
    name
        Of the kernel.
    weight
        How often it runs for one sample.
    candidates, measured
        Size of the space, and how many of them are in the records now.
    new
        Candidates that this run measured.
    before_us, after_us
        Microseconds with the analytic schedule, and with the fastest one; None where it failed.
    share
        Of the time of all layers before, from 0 to 1.
    failures
        Number of candidates that failed in this run, by cause.
    """

    name: str
    weight: int
    candidates: int
    measured: int
    new: int
    before_us: float | None
    after_us: float | None
    share: float
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """What a run did.

    Attributes
    ----------
    target, database
        What was tuned for, and the folder of the records.
    seconds
        How long it took.
    tasks
        Per layer.
    """

    target: str
    database: str
    seconds: float
    tasks: tuple[TaskReport, ...]

    @property
    def before_us(self) -> float:
        """Microseconds of the layers that are compared, with analytic schedules."""
        return sum(task.weight * (task.before_us or 0.0) for task in self.compared)

    @property
    def after_us(self) -> float:
        """Microseconds of the same layers with the fastest schedules."""
        return sum(task.weight * (task.after_us or 0.0) for task in self.compared)

    @property
    def compared(self) -> tuple[TaskReport, ...]:
        """The layers that have both times: not those whose analytic schedule has failed."""
        return tuple(task for task in self.tasks if task.before_us and task.after_us)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {**asdict(self), "before_us": self.before_us, "after_us": self.after_us}
