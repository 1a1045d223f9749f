# SPDX-License-Identifier: Apache-2.0
"""The folder of records when a disk is full, a write is interrupted, or somebody else is at it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms
from tvm.script import tirx as T

from decnn_tvm.errors import RecordsError
from decnn_tvm.targets import resolve_target
from decnn_tvm.tuning.record_files import RECORDS, WORKLOADS
from decnn_tvm.tuning.records import Records, records_to_write

Add = Callable[[Records, int, float], None]


def layer(size: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def double(a: T.Buffer((size,), "float32"), b: T.Buffer((size,), "float32")):
        for i in range(size):
            with T.sblock("double"):
                vi = T.axis.spatial(size, i)
                b[vi] = a[vi] * T.float32(2)

    return double


def trace(size: int) -> s_tir.schedule.Trace:
    sch = s_tir.Schedule(layer(size))
    sch.vectorize(sch.get_loops(sch.get_sblock("double"))[0])
    return sch.trace


@pytest.fixture
def target() -> tvm.target.Target:
    return resolve_target("host").target


@pytest.fixture
def add(target: tvm.target.Target) -> Add:
    return lambda records, size, seconds: records.add(layer(size), target, trace(size), seconds)


def test_metaschedule_reads_what_is_written(tmp_path: Path, add: Add) -> None:
    records = Records(tmp_path, create=True)
    for size, seconds in ((4, 1e-6), (8, 2e-6), (4, 3e-6)):
        add(records, size, seconds)
    database = ms.database.JSONDatabase(work_dir=str(tmp_path))
    found = {
        (int(record.workload.mod["main"].params[0].shape[0]), float(record.run_secs[0]))
        for record in database.get_all_tuning_records()
    }
    assert found == {(4, 1e-6), (8, 2e-6), (4, 3e-6)}
    assert len((tmp_path / WORKLOADS).read_text().splitlines()) == 2


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS])
def test_a_full_disk_costs_the_record_alone(
    tmp_path: Path,
    target: tvm.target.Target,
    add: Add,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    records = Records(tmp_path, create=True)
    add(records, 4, 1e-6)
    before = (tmp_path / name).read_bytes()
    really = os.write

    def half(file: int, data: bytes) -> int:
        """Write the half of a line to one of the files, and then no more."""
        if not os.path.samestat(os.fstat(file), (tmp_path / name).stat()):
            return really(file, data)
        if os.fstat(file).st_size > len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(file, data[: len(data) // 2])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(RecordsError, match="No space left"):
            add(records, 8, 2e-6)
    assert (tmp_path / name).read_bytes() == before
    add(records, 16, 3e-6)
    again = Records(tmp_path)
    assert [list(again.times(layer(size), target).values()) for size in (4, 8, 16)] == [
        [[1e-6]],
        [],
        [[3e-6]],
    ]


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS])
def test_an_incomplete_last_line_is_cut_off(
    tmp_path: Path, target: tvm.target.Target, add: Add, name: str
) -> None:
    add(Records(tmp_path, create=True), 4, 1e-6)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole + whole[: len(whole) // 2])
    assert Records(tmp_path).times(layer(4), target), "a reader does not see it"
    assert (tmp_path / name).read_bytes() != whole
    records = Records(tmp_path, create=True)
    assert (tmp_path / name).read_bytes() == whole
    add(records, 8, 2e-6)
    assert list(Records(tmp_path).times(layer(8), target).values()) == [[2e-6]]


def test_a_last_line_without_its_end_is_kept(
    tmp_path: Path, target: tvm.target.Target, add: Add
) -> None:
    add(Records(tmp_path, create=True), 4, 1e-6)
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes().rstrip())
    add(Records(tmp_path, create=True), 4, 3e-6)
    assert list(Records(tmp_path).times(layer(4), target).values()) == [[1e-6, 3e-6]]


def damage(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")


def test_no_layer_may_be_deleted(tmp_path: Path, add: Add) -> None:
    records = Records(tmp_path, create=True)
    add(records, 4, 1e-6)
    add(records, 8, 1e-6)
    damage(tmp_path / WORKLOADS, 0, '["123')
    with pytest.raises(RecordsError, match=r"line 1 is damaged\. Keep that line"):
        Records(tmp_path)


def test_a_record_without_a_target_is_left_out(
    tmp_path: Path, target: tvm.target.Target, add: Add
) -> None:
    records = Records(tmp_path, create=True)
    add(records, 4, 1e-6)
    add(records, 4, 3e-6)
    entry = json.loads((tmp_path / RECORDS).read_text().splitlines()[1])
    entry[1][2] = None
    damage(tmp_path / RECORDS, 1, json.dumps(entry))
    assert list(Records(tmp_path).times(layer(4), target).values()) == [[1e-6]]


@pytest.mark.parametrize("index", [-1, 2, "x", None])
def test_a_record_of_no_layer(tmp_path: Path, add: Add, index: Any) -> None:
    records = Records(tmp_path, create=True)
    add(records, 4, 1e-6)
    add(records, 8, 1e-6)
    entry = json.loads((tmp_path / RECORDS).read_text().splitlines()[1])
    damage(tmp_path / RECORDS, 1, json.dumps([index, entry[1]]))
    with pytest.raises(RecordsError, match="line 2 is"):
        Records(tmp_path)


TUNES = """\
import sys
from pathlib import Path
from decnn_tvm.tuning.tuning_lock import tuning_lock

with tuning_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_tunes_into_a_folder(
    tmp_path: Path, target: tvm.target.Target, add: Add
) -> None:
    add(Records(tmp_path, create=True), 4, 1e-6)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TUNES, str(tmp_path)], **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        message = rf"process {other.pid} on .* tunes into this folder now"
        with pytest.raises(RecordsError, match=message), records_to_write(tmp_path):
            pass
        assert Records(tmp_path).times(layer(4), target), "what is there can be read meanwhile"
        other.communicate(timeout=30)
    with records_to_write(tmp_path) as records:
        add(records, 8, 2e-6)
    assert Records(tmp_path).times(layer(8), target)
