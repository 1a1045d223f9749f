# SPDX-License-Identifier: Apache-2.0
"""Tuning from end to end on this machine, and the records that come of it."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import tvm
from tvm.target import codegen

import decnn_tvm
import decnn_tvm.targets
from decnn_tvm import compiler
from decnn_tvm.errors import InputError, RecordsError
from decnn_tvm.frontend import load
from decnn_tvm.lowering import lower_stages
from decnn_tvm.network import Network
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.graph_builder import GraphBuilder
from decnn_tvm.tuning import cost_model
from decnn_tvm.tuning.record_files import RECORDS
from decnn_tvm.tuning.records import (
    Records,
    as_module,
    structural_key,
    target_text,
)
from decnn_tvm.tuning.report import TaskReport, TuningReport
from decnn_tvm.tuning.shipped_records import write_shipped
from decnn_tvm.tuning.task_tuning import CONFIRMED
from decnn_tvm.tuning.tasks import find_tasks

OPTIONS = {"workers": 1, "winograd": False}


class FakeRunner:
    """Gives seconds in the order of the calls; a failure where they are a text."""

    def __init__(self, *answers: float | str) -> None:
        self.answers = list(answers)
        self.calls = 0

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        assert [Path(each.artifact_path).is_file() for each in runner_inputs] == [True]
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        failed = isinstance(answer, str)
        result = SimpleNamespace(
            run_secs=None if failed else [answer], error_msg=answer if failed else None
        )
        return [SimpleNamespace(result=lambda: result)]


def test_tuned_code_computes_the_network(
    model: onnx.ModelProto, network: Network, tmp_path: Path
) -> None:
    states: list[Any] = []
    report = decnn_tvm.tune(network, tmp_path / "db", trials=3, progress=states.append, **OPTIONS)
    assert sorted(task.weight for task in report.tasks) == [1, 1, 2]
    for task in report.tasks:
        assert task.measured == task.new == 3 and not task.failures
        assert task.before_us and task.after_us and 0 < task.after_us <= task.before_us
    assert sum(task.share for task in report.tasks) == pytest.approx(1)
    assert (states[-1].task, states[-1].trial, states[-1].seconds_left) == (2, 3, 0)
    package = decnn_tvm.compile(network, tmp_path / "pkg", records=tmp_path / "db", **OPTIONS)
    samples = random_inputs((1, 16, 12, 12), 3, seed=2)
    with decnn_tvm.LocalCluster(1) as cluster, cluster.deploy(package) as session:
        ours = [session.run(sample) for sample in samples]
    assert_logits_match(ours, reference_outputs(model, samples))


def test_shipped_records_hold_the_best_and_are_used_unless_refused(
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = FakeRunner(2e-6, 1e-6)
    decnn_tvm.tune(network, tmp_path / "db", trials=2, runner=runner, **OPTIONS)
    processor = str(resolve_target("host").target.attrs["mcpu"])
    write_shipped(tmp_path / "db", tmp_path / "shipped" / processor)
    lines = gzip.decompress((tmp_path / "shipped" / processor / f"{RECORDS}.gz").read_bytes())
    assert len(lines.splitlines()) == 3
    monkeypatch.setattr(compiler, "SHIPPED_RECORDS", tmp_path / "shipped")
    with caplog.at_level("INFO", logger="decnn_tvm"):
        decnn_tvm.compile(network, tmp_path / "with", **OPTIONS)
        assert "3 layers by their records" in caplog.text
        caplog.clear()
        decnn_tvm.compile(network, tmp_path / "without", shipped_records=False, **OPTIONS)
        assert "by their records" not in caplog.text


def test_what_is_known_is_not_measured_again(network: Network, tmp_path: Path) -> None:
    first = FakeRunner(2e-6, 1e-6)
    before = decnn_tvm.tune(network, tmp_path, trials=2, runner=first, **OPTIONS)
    lines = (tmp_path / "database_tuning_record.json").read_text()
    assert first.calls == len(lines.splitlines()) > 0
    again = FakeRunner("nothing may run")
    after = decnn_tvm.tune(network, tmp_path, trials=2, runner=again, **OPTIONS)
    assert again.calls == 0
    assert (tmp_path / "database_tuning_record.json").read_text() == lines
    assert [task.new for task in after.tasks] == [0, 0, 0]
    assert [task.after_us for task in after.tasks] == [task.after_us for task in before.tasks]
    more = FakeRunner(3e-6)
    decnn_tvm.tune(network, tmp_path, trials=3, runner=more, **OPTIONS)
    assert more.calls == 3


def test_a_run_has_its_folder_alone(network: Network, tmp_path: Path) -> None:
    options = {"trials": 1, "runner": FakeRunner(1e-6), **OPTIONS}
    refused: list[Any] = []

    def tune_too(_: Any) -> None:
        if not refused:
            with pytest.raises(RecordsError, match="tunes into this folder now") as error:
                decnn_tvm.tune(network, tmp_path, **options)
            refused.append(error)

    decnn_tvm.tune(network, tmp_path, progress=tune_too, **options)
    assert refused


def test_an_interrupt_keeps_what_is_measured(network: Network, tmp_path: Path) -> None:
    def interrupt(state: Any) -> None:
        if state.task == 1 and state.trial == 1:
            raise KeyboardInterrupt

    options = {"trials": 2, "runner": FakeRunner(1e-6), **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        decnn_tvm.tune(network, tmp_path, progress=interrupt, **options)
    report = decnn_tvm.tune(network, tmp_path, **options)
    assert [task.new for task in report.tasks] == [0, 1, 2]


def test_what_an_interrupted_run_did_not_confirm_is_confirmed(
    network: Network, tmp_path: Path
) -> None:
    def interrupt(state: Any) -> None:
        if (state.task, state.trial) == (0, 2):
            raise KeyboardInterrupt

    options = {"trials": 2, "runner": FakeRunner(1e-6), **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        decnn_tvm.tune(network, tmp_path, progress=interrupt, **options)
    report = decnn_tvm.tune(network, tmp_path, **options)
    assert [task.new for task in report.tasks] == [0, 2, 2]
    records, target = Records(tmp_path), resolve_target("host").target
    for layer in layers(network).values():
        best = str(records.best(layer, target))
        assert len(records.times(layer, target)[best]) >= CONFIRMED


def test_totals_compare_the_same_layers() -> None:
    common = {"weight": 2, "candidates": 2, "measured": 2, "new": 2, "failures": {}, "share": 0.5}
    both = TaskReport(name="both", before_us=4.0, after_us=3.0, **common)
    after = TaskReport(name="after", before_us=None, after_us=7.0, **common)
    report = TuningReport(target="host", database="db", seconds=1.0, tasks=(both, after))
    assert (report.before_us, report.after_us) == (8.0, 6.0)


def test_records_choose_the_schedule(network: Network, tmp_path: Path) -> None:
    """The last of three candidates is said to be fastest, and is the one compiled."""
    runner = FakeRunner(3e-6, 2e-6, 1e-6, 1e-6, 3e-6, 1e-6, 3e-6)
    target = decnn_tvm.targets.resolve_target("host").target
    decnn_tvm.tune(network, tmp_path, trials=3, runner=runner, **OPTIONS)
    records = Records(tmp_path)
    for name, layer in layers(network).items():
        times = records.times(layer, target)
        best = records.best(layer, target)
        assert best is not None, name
        assert min(times, key=lambda text: sorted(times[text])[len(times[text]) // 2]) == str(best)


def test_layers_of_bands_and_pixels_are_those_that_are_compiled(tmp_path: Path) -> None:
    graph = GraphBuilder("pixels", seed=6, batch=1, opset=17)
    x = graph.relu(graph.conv("first", graph.input("input", 3, 12), 16, 3, padding=1))
    x = graph.relu(graph.conv("second", x, 16, 3, padding=1))
    x = graph.flatten(graph.global_average_pool(x))
    network = load(graph.model(graph.linear("classes", x, 10)))
    pixels = {"image_mean": (0.5,) * 3, "image_std": (0.25,) * 3}
    options = {"workers": 2, "winograd": False, "row_tiles": 2, **pixels}
    decnn_tvm.tune(network, tmp_path, trials=1, runner=FakeRunner(*[1e-6] * 100), **options)
    records = Records(tmp_path)
    target = decnn_tvm.targets.resolve_target("host").target
    taken = compiler.with_image_input(network, *pixels.values())
    split = compiler.split_network(taken, 2, None, False, "float32", row_tiles=2)
    found = find_tasks(lower_stages(mod, target) for mod in split.values())
    plain = layers(network, workers=2)
    keys = {structural_key(as_module(task.layer)) for task in found}
    assert not keys <= {structural_key(as_module(layer)) for layer in plain.values()}
    for task in found:
        assert records.best(task.layer, target) is not None, task.name


def layers(network: Network, workers: int = 1) -> dict[str, Any]:
    target = decnn_tvm.targets.resolve_target("host").target
    split = compiler.split_network(network, workers, None, False, "float32")
    tasks = find_tasks(lower_stages(mod, target) for mod in split.values())
    return {task.name: task.layer for task in tasks}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "llvm", "mcpu": "haswell"},
        {"kind": "llvm", "mcpu": "haswell", "num-cores": 1, "mtriple": "x86_64-linux-gnu"},
        {"kind": "llvm", "mcpu": "haswell", "num-cores": 1, "mtriple": "amd64-unknown-linux"},
    ],
)
def test_equal_targets_share_records(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codegen, "llvm_get_system_triple", lambda: "x86_64-conda-linux-gnu")
    assert target_text(tvm.target.Target(options)) == '["x86_64", "haswell", 1]'


def test_records_that_fit_no_layer_are_told(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decnn_tvm.tune(network, tmp_path / "db", trials=1, runner=FakeRunner(1e-6), **OPTIONS)
    options = {"records": tmp_path / "db", "shipped_records": False, **OPTIONS}
    for cores, told in ((1, False), (2, True)):
        decnn_tvm.compile(network, tmp_path / "pkg", cores=cores, **options)
        warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert any("no record fits a layer" in text for text in warnings) is told


def test_records_for_another_target_are_ignored(network: Network, tmp_path: Path) -> None:
    decnn_tvm.tune(network, tmp_path, trials=1, runner=FakeRunner(1e-6), **OPTIONS)
    records = Records(tmp_path)
    targets = [decnn_tvm.targets.resolve_target("host", cores=cores).target for cores in (1, 2)]
    for layer in layers(network).values():
        assert records.best(layer, targets[0]) is not None
        assert records.best(layer, targets[1]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(b'[0, [[["x"\n', "line 1 is damaged"), (b"\xff\xfe\n", "unreadable"), (b"{}\n", "no tuning")],
)
def test_damaged_records(network: Network, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "database_workload.json").touch()
    (tmp_path / "database_tuning_record.json").write_bytes(content)
    with pytest.raises(RecordsError, match=words):
        decnn_tvm.tune(network, tmp_path, **OPTIONS)
    with pytest.raises(RecordsError, match=words):
        decnn_tvm.compile(network, tmp_path / "pkg", records=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    "limits", [{"trials": 0}, {"trials": -1}, {"timeout": 0}, {"timeout": -1.0}]
)
def test_limits_that_measure_nothing(
    network: Network, tmp_path: Path, limits: dict[str, float]
) -> None:
    with pytest.raises(InputError, match=f"{next(iter(limits))}="):
        decnn_tvm.tune(network, tmp_path / "db", **limits, **OPTIONS)
    assert not (tmp_path / "db").exists()


def test_records_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "database_workload.json").write_text('["1", "x"]\n')
    (tmp_path / "database_tuning_record.json").write_text("[0, 1]\n")
    with pytest.raises(RecordsError, match="not a MetaSchedule database"):
        Records(tmp_path)


def test_the_cost_model_learns_what_is_fast(network: Network) -> None:
    target = decnn_tvm.targets.resolve_target("host").target
    layer = next(iter(layers(network).values()))
    context = cost_model.tuning_context(as_module(layer), target)
    schedules = context.generate_design_space()
    model = cost_model.CostModel()
    assert model.order(context, schedules) == list(schedules)
    seconds = [1e-6 * (index % 7 + 1) for index in range(len(schedules))]
    model.learn(context, schedules, seconds)
    best = [schedules.index(each) for each in model.order(context, schedules)[:3]]
    assert sum(seconds[index] for index in best) / 3 < sum(seconds) / len(seconds)
