# SPDX-License-Identifier: Apache-2.0
"""MetaSchedule's XGBoost cost model, over the candidates of all layers of a run."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from decnn_tvm.schedules.apply import open_space
from decnn_tvm.tuning.records import FAILED

# Measurements from which on the model is asked. Its own threshold, 100, suits spaces of thousands.
WARM_UP = 6
_INTRINSICS = "tvm.s_tir.tensor_intrin"


def template_space(target: tvm.target.Target) -> ms.space_generator.ScheduleFn:
    """Return the space of our templates for MetaSchedule: every candidate is a design space."""

    def schedules(sch: s_tir.Schedule) -> list[s_tir.Schedule]:
        return open_space(sch.mod["main"], target)

    return ms.space_generator.ScheduleFn(schedules, sch_rules=[], postprocs=[], mutator_probs={})


def tuning_context(mod: tvm.IRModule, target: tvm.target.Target) -> ms.TuneContext:
    """Return a context whose design spaces are the candidates for the layer in `mod`."""
    with _without_intrinsics():
        return ms.TuneContext(
            mod, target=target, space_generator=template_space(target), num_threads=1
        )


class CostModel:
    """Predicts which candidates are fast, from those that were measured."""

    def __init__(self) -> None:
        self._model = ms.cost_model.XGBModel(num_warmup_samples=WARM_UP, num_tuning_cores=1)
        self.size = 0

    @property
    def ready(self) -> bool:
        """Whether enough was measured."""
        return self.size >= WARM_UP

    def learn(
        self,
        context: ms.TuneContext,
        schedules: Sequence[s_tir.Schedule],
        seconds: Sequence[float],
    ) -> None:
        """Learn from measurements of the layer of `context`; failures have `FAILED` seconds."""
        results = [
            ms.runner.RunnerResult(None if value >= FAILED else [value], None) for value in seconds
        ]
        self._model.update(context, _candidates(schedules), results)
        self.size += len(schedules)

    def order(
        self, context: ms.TuneContext, schedules: Sequence[s_tir.Schedule]
    ) -> list[s_tir.Schedule]:
        """Return the schedules, the one that is expected to be fastest first."""
        if not self.ready or not schedules:
            return list(schedules)
        scores = self._model.predict(context, _candidates(schedules))
        ranks = sorted(range(len(schedules)), key=lambda index: -scores[index])
        return [schedules[index] for index in ranks]


def _candidates(schedules: Sequence[s_tir.Schedule]) -> list[ms.MeasureCandidate]:
    return [
        ms.MeasureCandidate(sch, ms.arg_info.ArgInfo.from_prim_func(sch.mod["main"]))
        for sch in schedules
    ]


@contextlib.contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Keep a context from importing the tensor intrinsics of every kind of device.

    That takes 12 to 16 seconds, and our templates use none of them.
    """
    if _INTRINSICS in sys.modules:
        yield
        return
    sys.modules[_INTRINSICS] = types.ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]
