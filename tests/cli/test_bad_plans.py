# SPDX-License-Identifier: Apache-2.0
"""Bad input of plan, profile and report: one clear line, as of any other command."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from decnn_tvm.testing.graph_builder import GraphBuilder
from tests.cli.test_bad_input import Command, edit_manifest, refused
from tests.cli.test_planning import cluster_file
from tests.profiles import made_up_profile

DIGITS = "9" * 400
"""More than any number holds."""
DEEP = 100_000
"""Levels of brackets, more than any parser goes down."""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    return cluster_file(tmp_path / "cluster.toml", bandwidth="1 Gb/s", latency="0.1 ms")


@pytest.mark.parametrize("verb", ["plan", "report"])
def test_a_size_of_400_digits(
    command: Command, folder: Path, cluster: Path, tmp_path: Path, verb: str
) -> None:
    arguments = [verb, folder / "dense.onnx", "--cluster", cluster, "--memory", DIGITS]
    arguments += ["-o", tmp_path / "x.html"] if verb == "report" else []
    refused(command, arguments, 2, "--memory", "expected a size such as 64M")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('address = "192.0.2.1:9100"', f'address = "a:1"\nmemory = "{DIGITS}"', "memory = '999"),
        ("1 Gb/s", f"{DIGITS} Gb/s", "expected bits per second"),
        ("0.1 ms", f"{DIGITS} s", "expected a time"),
        ("192.0.2.1:9100", f"192.0.2.1:{'9' * 5000}", "expected host:port"),
        ("[[worker]]", f"a = {'[' * DEEP}\n[[worker]]", "no TOML"),
    ],
    ids=["memory", "bandwidth", "latency", "port", "depth"],
)
def test_a_cluster_file_beyond_all_bounds(
    command: Command, folder: Path, cluster: Path, old: str, new: str, words: str
) -> None:
    cluster.write_text(cluster.read_text().replace(old, new, 1))
    arguments = ["plan", folder / "dense.onnx", "--cluster", cluster]
    refused(command, arguments, 2, "cluster.toml", words)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["links"][0].update(between=["coordinator", "board-7"]), "board-7"),
        (lambda p: p["links"][0].update(between=["board-0", "board-0"]), "expected two of"),
        (lambda p: p["links"][0].update(between=["board-0"]), "damaged"),
        (lambda p: p["links"][0].update(bytes_per_second="fast"), "bytes_per_second is 'fast'"),
        (lambda p: p["links"][0].update(bytes_per_second=0), "next to nothing passes"),
        (lambda p: p["links"][0].update(bytes_per_second=5e-324), "next to nothing passes"),
        (lambda p: p["links"][0].update(latency_seconds=math.nan), "latency_seconds is nan"),
        (lambda p: p.update(links=[]), "a link at least"),
        (lambda p: p.update(workers=[]), "expected a worker"),
        (lambda p: p["workers"][1].update(name="board-0"), "each once"),
        (lambda p: p["workers"][0].update(name="coordinator"), "each once"),
        (lambda p: p["coordinator"].update(name="chief"), "expected 'coordinator' first"),
        (lambda p: p["workers"][0].update(seconds_per_message="1"), "seconds_per_message is '1'"),
        (lambda p: p["workers"][0].update(seconds_per_byte=-1.0), "seconds_per_byte is -1.0"),
        (lambda p: p["workers"][0].update(groups=True), "groups is True"),
        (lambda p: p["workers"][0].update(memory_bytes=10**400), "memory_bytes is 1"),
        (lambda p: p["workers"][0].update(stages=None), "stages is None"),
        (lambda p: p["workers"][0]["stages"][0].update(seconds=math.inf), "seconds is inf"),
        (lambda p: p["workers"][0]["stages"][0].update(seconds=0), "took no time"),
        (lambda p: p["workers"][0]["stages"][0].update(kernels=["a"]), "kernels is ['a']"),
        (lambda p: p["workers"][0]["stages"][0].update(kernels={"a": "b"}), "a is 'b'"),
        (lambda p: p["workers"][0]["stages"][0].update(function=3), "function is 3"),
        (lambda p: p.update(model={}), "model is {}"),
        (lambda p: p["workers"].append("board-2"), "damaged"),
    ],
)
def test_a_damaged_profile(
    command: Command, folder: Path, cluster: Path, tmp_path: Path, change: Change, words: str
) -> None:
    path = tmp_path / "profile.json"
    made_up_profile(["board-0", "board-1"]).write(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    arguments = ["plan", folder / "dense.onnx", "--cluster", cluster, "--profile", path]
    refused(command, arguments, 2, "profile.json", words, "Measure it again")


TRACE = {
    "traceEvents": [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "board-0"}},
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "board-1"}},
        *(
            {
                "name": "stage0",
                "cat": "compute",
                "ph": "X",
                "ts": 10.0,
                "dur": 5.0,
                "pid": rank,
                "tid": 0,
                "args": {"sample": 0},
            }
            for rank in (0, 1)
        ),
    ]
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e[2].update(cat="sleep"), "'sleep'; expected compute, wait"),
        (lambda e: e[2].update(cat=["compute"]), "an event of"),
        (lambda e: e[2].update(pid=2), "sample 0 on process 2"),
        (lambda e: e[2].update(pid="0"), "sample 0 on process '0'"),
        (lambda e: e[2].update(pid=-1), "process -1"),
        (lambda e: e[1].update(pid=5), "processes [0, 5]"),
        (lambda e: e[2].update(ts=math.inf), "a time of inf us"),
        (lambda e: e[2].update(dur=-1), "a time of -1 us"),
        (lambda e: e[2].update(dur=10**400), "a time of 1"),
        (lambda e: e[2].update(args={"sample": math.inf}), "sample inf"),
        (lambda e: [event.update(dur=0) for event in e[2:]], "no stage takes any time"),
        (lambda e: e.append("compute"), "no trace of a run"),
    ],
)
def test_a_damaged_trace(
    command: Command,
    folder: Path,
    cluster: Path,
    tmp_path: Path,
    change: Callable[[list[Any]], object],
    words: str,
) -> None:
    trace = copy.deepcopy(TRACE)
    change(trace["traceEvents"])
    (tmp_path / "trace.json").write_text(json.dumps(trace))
    arguments = ["report", folder / "dense.onnx", "--cluster", cluster, "-o", tmp_path / "x.html"]
    arguments += ["--trace", tmp_path / "trace.json"]
    refused(command, arguments, 2, "trace.json", words, "`decnn run --trace FILE.json` writes one")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("option", ["--profile", "--trace"])
def test_brackets_without_end(
    command: Command, folder: Path, cluster: Path, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * DEEP)
    arguments = ["report", folder / "dense.onnx", "--cluster", cluster, "-o", tmp_path / "x.html"]
    refused(command, [*arguments, option, path], 2, "deep.json")


def test_brackets_without_end_in_a_package_and_in_records(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    package = edit_manifest(folder, tmp_path / "copy", lambda data: None)
    (package / "manifest.json").write_text("[" * DEEP)
    refused(command, ["inspect", package], 2, "manifest.json", "unreadable")
    for name in ("database_workload.json", "database_tuning_record.json"):
        (tmp_path / name).write_text("[" * DEEP + "\n")
    arguments = ["compile", folder / "grouped.onnx", "-o", tmp_path / "x", "--records", tmp_path]
    refused(command, arguments, 2, "line 1 is damaged")


def test_what_can_not_be_profiled(command: Command, folder: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "profile.json"]
    refused(command, ["profile", tmp_path, *out, "--workers", 1], 2, "no manifest.json")
    package = folder / "grouped.pkg"
    refused(command, ["profile", package, *out], 2, "--workers", "--connect", "required")
    refused(command, ["profile", package, *out, "--workers", 0], 2, "at least 1")
    refused(command, ["profile", package, *out, "--workers", 1, "--seconds", "inf"], 2, "above 0")
    shares = ["--workers", 2, "--shares", "2,1"]
    refused(command, ["profile", package, *out, *shares], 2, "shares [2, 1]")
    assert not (tmp_path / "profile.json").exists()


def test_a_network_that_computes_nothing_to_speak_of(
    command: Command, cluster: Path, tmp_path: Path
) -> None:
    """No layer has weights or moves data, so none counts in the cost model."""
    g = GraphBuilder("relu", seed=0, batch=1, opset=17)
    onnx.save(g.model(g.relu(g.input("x", 3, 8))), tmp_path / "relu.onnx")
    wanted = ["--cluster", cluster]
    refused(command, ["plan", tmp_path / "relu.onnx", *wanted, "--for", "latency"], 2, "one device")
    out = tmp_path / "report.html"
    options = [*wanted, "--counts", "1,2", "-o", out]
    done = command("report", tmp_path / "relu.onnx", *options)
    assert done.status == 0, done.err
    assert "There is nothing to show." in out.read_text()
