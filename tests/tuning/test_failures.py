# SPDX-License-Identifier: Apache-2.0
"""Candidates that misbehave, and machines that do: which failure is kept as the candidate's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm import s_tir
from tvm.script import tirx as T
from tvm.support.popen_pool import MapResult, StatusKind

import decnn_tvm
from decnn_tvm.errors import CompileError, InputError
from decnn_tvm.network import Network
from decnn_tvm.targets import resolve_target
from decnn_tvm.tuning import cost_model, measurement
from decnn_tvm.tuning.board_check import check_host
from decnn_tvm.tuning.records import FAILED, Records, as_module
from tests.tuning.test_tuner import OPTIONS, FakeRunner, layers


@T.prim_func(s_tir=True)
def good(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("good"):
            vi = T.axis.spatial(4, i)
            b[vi] = a[vi]


@T.prim_func(s_tir=True)
def crash(_a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("crash"):
            vi = T.axis.spatial(4, i)
            b[vi] = T.Cast("float32", T.call_extern("int32", "abort"))


@T.prim_func(s_tir=True)
def hang(_a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("hang"):
            vi = T.axis.spatial(4, i)
            b[vi] = T.Cast("float32", T.call_extern("int32", "pause"))


@T.prim_func(s_tir=True)
def uncompilable(_a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.sblock("uncompilable"):  # no CPU has this instruction
            vi = T.axis.spatial(4, i)
            b[vi] = T.tvm_warp_shuffle(T.uint32(1), T.float32(0), 0, 32, 32)


@pytest.mark.slow
def test_a_bad_candidate_costs_its_trial_alone(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = cost_model.open_space

    def sabotaged(func: Any, target: tvm.target.Target) -> list[s_tir.Schedule]:
        bad = [s_tir.Schedule(each) for each in (crash, hang, uncompilable)]
        for number, schedule in enumerate(bad):  # traces of their own
            block = schedule.get_child_blocks(schedule.get_sblock("root"))[0]
            schedule.annotate(block, "number", number)
        good = honest(func, target)
        return [good[0], *bad, good[1]]

    monkeypatch.setattr(cost_model, "open_space", sabotaged)
    report = decnn_tvm.tune(network, tmp_path / "db", trials=5, timeout=4, **OPTIONS)
    for task in report.tasks:
        assert task.failures == {"run error": 1, "time-out": 1, "compile error": 1}
        assert (task.new, task.measured) == (5, 4) and task.before_us and task.after_us
    lines = (tmp_path / "db" / "database_tuning_record.json").read_text().splitlines()
    seconds = [json.loads(line)[1][1] for line in lines]
    assert seconds.count([FAILED]) == 2 * len(report.tasks), "a longer limit may do"


def test_failures_are_remembered_and_never_chosen(network: Network, tmp_path: Path) -> None:
    broken = FakeRunner(2e-6, "no such instruction", 2e-6)
    report = decnn_tvm.tune(network, tmp_path, trials=2, runner=broken, **OPTIONS)
    assert report.tasks[0].failures == {"run error": 1}
    idle = FakeRunner("nothing may run")
    decnn_tvm.tune(network, tmp_path, trials=2, runner=idle, **OPTIONS)
    assert idle.calls == 0
    records, target = Records(tmp_path), decnn_tvm.targets.resolve_target("host").target
    for layer in layers(network).values():
        best = str(records.best(layer, target))
        assert max(records.times(layer, target)[best]) < 1


@pytest.mark.parametrize(
    ("known", "answers"),
    [
        (0, ["no such instruction"]),  # nothing works here
        # Nor what has worked in an earlier run.
        pytest.param(1, ["no such instruction"], marks=pytest.mark.slow),
        pytest.param(0, [1e-6, "Timeout, killed after 20 seconds", 1e-6], marks=pytest.mark.slow),
    ],
)
def test_a_machine_at_fault_blames_no_candidate(
    network: Network, tmp_path: Path, known: int, answers: list[float | str]
) -> None:
    if known:
        decnn_tvm.tune(network, tmp_path, trials=known, runner=FakeRunner(1e-6), **OPTIONS)
    report = decnn_tvm.tune(network, tmp_path, trials=2, runner=FakeRunner(*answers), **OPTIONS)
    failed = [sum(task.failures.values()) for task in report.tasks]
    assert failed[0] == (1 if known or len(answers) > 1 else 2)
    again = decnn_tvm.tune(network, tmp_path, trials=2, runner=FakeRunner(1e-6), **OPTIONS)
    assert [task.new for task in again.tasks] == failed
    assert [task.measured for task in again.tasks] == [2, 2, 2]


def test_what_is_not_linked_is_no_candidates_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise CompileError("no linker for this machine")

    monkeypatch.setattr(measurement, "link_shared_library", link)
    host = resolve_target("host")
    job = (as_module(good), host, str(tmp_path / "x.so"))
    result = MapResult(StatusKind.COMPLETE, measurement._build_job(job))
    outcome = measurement._built(result, tmp_path / "x.so", 1.0)
    assert isinstance(outcome, measurement.Outcome)
    assert (outcome.failure, outcome.cause) == ("not linked", "no linker for this machine")
    assert outcome.failure not in measurement.BLAMED


def test_code_that_this_machine_can_not_run(network: Network, tmp_path: Path) -> None:
    other = "generic-armv7" if resolve_target("host").machine != "armv7l" else "rpi4"
    with pytest.raises(InputError, match=r"this machine is .* Measure on such boards"):
        decnn_tvm.tune(network, tmp_path, target=other, **OPTIONS)
    with pytest.raises(InputError, match=r"this machine lacks the CPU features \['warp'\]"):
        check_host(replace(resolve_target("host"), features=("warp",)))
    with pytest.raises(InputError, match="key 'rpi4': expected a tracker too"):
        decnn_tvm.tune(network, tmp_path, key="rpi4", **OPTIONS)
    assert not any(tmp_path.iterdir())
