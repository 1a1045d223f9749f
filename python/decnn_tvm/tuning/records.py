# SPDX-License-Identifier: Apache-2.0
"""What was measured: a MetaSchedule JSON database in a folder, read and written by target.

Two files of JSON lines, ``database_workload.json`` (layers) and ``database_tuning_record.json``
(a trace, its seconds and its target each). A record is known by its layer, its target and its
trace, since a trace of our templates holds all decisions; one trace may have been timed several
times, and the median counts. A candidate that failed for good has `FAILED` seconds, as
MetaSchedule writes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import ScheduleError

from decnn_tvm.errors import RecordsError, last_line
from decnn_tvm.schedules.apply import is_layer
from decnn_tvm.schedules.vectors import core_count
from decnn_tvm.targets import target_machine
from decnn_tvm.tuning.record_files import RECORDS, WORKLOADS, append, prepare, read
from decnn_tvm.tuning.tuning_lock import tuning_lock

logger = logging.getLogger(__name__)

FAILED = 1e10

_Layer: TypeAlias = "tuple[int, str]"


class Records:
    """Measured schedules of layers.

    Parameters
    ----------
    folder : Path or str
        Where they are.
    create : bool
        Start an empty database where there is none, and check that it can be written.

    Attributes
    ----------
    asked, applied
        Layers that `ApplyRecords` looked for, and found, by the text of their target.

    Raises
    ------
    RecordsError
        The folder has no records, is damaged, or can't be written.
    """

    def __init__(self, folder: Path | str, *, create: bool = False) -> None:
        self.folder = Path(folder)
        self.asked: Counter[str] = Counter()
        self.applied: Counter[str] = Counter()
        if create:
            prepare(self.folder)
        workloads, records = read(self.folder)
        self._times: dict[_Layer, dict[str, list[float]]] = defaultdict(dict)
        self._traces: dict[str, s_tir.schedule.Trace] = {}
        self._layers: dict[_Layer, tuple[tirx.PrimFunc, tvm.target.Target]] = {}
        self._lines: dict[int, int] = {}
        self._size = len(workloads)
        try:
            known = [ms.database.Workload.from_json(entry) for entry in workloads]
            for number, workload in enumerate(known):
                self._lines.setdefault(structural_key(workload.mod), number)
            for index, entry in records:
                self._read(ms.database.TuningRecord.from_json(entry, known[index]))
        except Exception as error:  # whatever TVM makes of what is in there
            raise RecordsError(
                f"{self.folder}: not a MetaSchedule database of this TVM "
                f"({last_line(error)}). Use another folder."
            ) from error

    def times(self, layer: tirx.PrimFunc, target: tvm.target.Target) -> dict[str, list[float]]:
        """Return the seconds of each measurement by the text of the trace."""
        found = self._times.get(_key(as_module(layer), target), {})
        return {trace: list(seconds) for trace, seconds in found.items()}

    def best(self, layer: tirx.PrimFunc, target: tvm.target.Target) -> s_tir.schedule.Trace | None:
        """Return the trace of the fastest schedule of `layer`, or None for an unknown layer."""
        found = self.times(layer, target)
        medians = {trace: median(seconds) for trace, seconds in found.items()}
        trace = min(medians, key=medians.__getitem__, default=None)
        return None if trace is None or medians[trace] >= FAILED else self._traces[trace]

    def add(
        self,
        layer: tirx.PrimFunc,
        target: tvm.target.Target,
        trace: s_tir.schedule.Trace,
        seconds: float,
    ) -> None:
        """Keep a measurement of the schedule that a trace makes, in the database too.

        Raises
        ------
        RecordsError
            It can't be written; it is kept in memory.
        """
        mod = as_module(layer)
        self._remember(mod, target, trace, [seconds])
        arguments = ms.arg_info.ArgInfo.from_prim_func(mod["main"])
        workload = ms.database.Workload(mod)
        record = ms.database.TuningRecord(trace, workload, [seconds], target, arguments)
        try:
            append(self.folder / RECORDS, [self._line(workload), record.as_json()])
        except OSError as error:  # a full disk, a folder that went
            raise RecordsError(
                f"{self.folder}: a record can't be written ({error.strerror}). It is kept for this "
                "run only."
            ) from error

    def warn_if_unused(self, target: tvm.target.Target) -> None:
        """Warn where layers for `target` were looked for, and there was none of them."""
        text = target_text(target)
        if self.asked[text] and not self.applied[text]:
            others = sorted({text for _, text in self._times})
            logger.warning(
                "%s: no record fits a layer for %s [machine, processor, cores]; there are some for "
                "%s. Tune with the target, cores, workers, --winograd and --wire of compilation.",
                self.folder,
                text,
                ", ".join(others) or "nothing",
            )

    def copy_best(self, destination: Records) -> None:
        """Add the fastest measurement of each layer to other records, where those lack the layer.

        Raises
        ------
        RecordsError
            They can't be written.
        """
        for layer, target in self._layers.values():
            best = self.best(layer, target)
            if best is None or destination.times(layer, target):
                continue
            seconds = median(self.times(layer, target)[str(best)])
            destination.add(layer, target, best, seconds)

    def _line(self, workload: ms.database.Workload) -> int:
        """Return the number of a layer's line, which is written if it is new."""
        key = structural_key(workload.mod)
        if key not in self._lines:
            append(self.folder / WORKLOADS, workload.as_json())
            self._lines[key] = self._size
            self._size += 1
        return self._lines[key]

    def _read(self, record: ms.database.TuningRecord) -> None:
        if record.target is None:  # MetaSchedule allows it; the record is of no use here
            logger.info("%s: a record without a target is left out", self.folder)
            return
        seconds = [float(value) for value in record.run_secs or [FAILED]]
        self._remember(record.workload.mod, record.target, record.trace, seconds)

    def _remember(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        trace: s_tir.schedule.Trace,
        seconds: list[float],
    ) -> None:
        text = str(trace)
        self._traces[text] = trace
        self._layers.setdefault(_key(mod, target), (mod["main"], target))
        self._times[_key(mod, target)].setdefault(text, []).extend(seconds)


@contextlib.contextmanager
def records_to_write(folder: Path) -> Iterator[Records]:
    """Yield the records in a folder, which no other run tunes into while the block runs.

    Raises
    ------
    RecordsError
        As for `Records`, or another run has the folder.
    """
    prepare(folder)
    with tuning_lock(folder):
        yield Records(folder, create=True)


@tvm.transform.module_pass(opt_level=0, name="decnn.ApplyRecords")
class ApplyRecords:
    """Schedule the layers that records know for the current target; leave the others alone."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Replace layers by what was measured to be fastest."""
        target = tvm.target.Target.current(allow_none=False)
        scheduled = {}
        for var, func in mod.functions_items():
            known = is_layer(func) and not bool(func.attrs.get("tirx.is_scheduled", False))
            trace = self.records.best(func, target) if known else None
            self.records.asked[target_text(target)] += known
            replayed = None if trace is None else _replay(func, trace, var.name_hint)
            if replayed is not None:
                scheduled[var] = replayed.with_attr("tirx.is_scheduled", True)
        mod = mod.clone()
        for var, func in scheduled.items():
            mod.update_func(var, func)
        self.records.applied[target_text(target)] += len(scheduled)
        logger.info("%d layers by their records for %s", len(scheduled), target)
        return mod


def as_module(layer: tirx.PrimFunc) -> tvm.IRModule:
    """Return a layer as a module whose function bears the same name whatever the network's is."""
    return tvm.IRModule({"main": layer.with_attr("global_symbol", "main")})


def structural_key(mod: tvm.IRModule) -> int:
    """Return a number that is the same for modules of the same structure."""
    return int(tvm_ffi.structural_hash(mod, map_free_vars=True))


def target_text(target: tvm.target.Target) -> str:
    """Return what the best schedule for a target depends on as text.

    That is the processor and the number of its cores, as they are where a target leaves them out:
    the machine is this one then, and has one core. Features that a hypervisor hides or a user
    forbids change the layer where they change the vectors, and its best schedule little otherwise.
    """
    processor = str(target.attrs.get("mcpu") or "")
    return json.dumps([target_machine(target), processor, core_count(target)])


def _replay(func: tirx.PrimFunc, trace: s_tir.schedule.Trace, name: str) -> tirx.PrimFunc | None:
    sch = s_tir.Schedule(func)
    try:
        trace.apply_to_schedule(sch, remove_postproc=False)
    except (ScheduleError, ValueError, RuntimeError) as error:
        logger.warning("the record of %s does not fit it: %s", name, last_line(error))
        return None
    return sch.mod["main"]


def _key(mod: tvm.IRModule, target: tvm.target.Target) -> _Layer:
    return structural_key(mod), target_text(target)
