# SPDX-License-Identifier: Apache-2.0
"""Tuning through a real RPC tracker with real servers, all on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import decnn_tvm
from decnn_tvm.errors import ClusterError
from decnn_tvm.network import Network
from decnn_tvm.testing.boards import (
    end,
    free_port,
    known_boards,
    running_server,
    running_tracker,
)
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.tuning import tracker as tracker_module
from decnn_tvm.tuning.record_files import RECORDS
from decnn_tvm.tuning.records import FAILED

OPTIONS = {"workers": 1, "winograd": False}
Serve = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_tracker() as where:
        yield where


@pytest.fixture(scope="module")
def serve(address: str) -> Iterator[Serve]:
    """Return what starts a server under a key and waits until the tracker knows it."""
    with contextlib.ExitStack() as stack:
        yield lambda key: stack.enter_context(running_server(address, key))


def test_boards_measure(
    model: onnx.ModelProto, network: Network, address: str, serve: Serve, tmp_path: Path
) -> None:
    for _ in range(2):
        serve("board")
    boards = {"tracker": address, "key": "board"}
    report = decnn_tvm.tune(network, tmp_path / "db", trials=2, **boards, **OPTIONS)
    for task in report.tasks:
        assert task.new == task.measured == 2 and not task.failures
        assert task.before_us and task.after_us and 0 < task.after_us <= task.before_us
    package = decnn_tvm.compile(network, tmp_path / "pkg", records=tmp_path / "db", **OPTIONS)
    samples = random_inputs((1, 16, 12, 12), 3, seed=2)
    with decnn_tvm.LocalCluster(1) as cluster, cluster.deploy(package) as session:
        ours = [session.run(sample) for sample in samples]
    assert_logits_match(ours, reference_outputs(model, samples))


@pytest.mark.slow
def test_a_lost_board_ends_the_run_and_loses_nothing(
    network: Network, address: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "PATIENCE", 1.0)
    server = serve("fragile")

    def pull_the_plug(state: Any) -> None:
        if (state.task, state.trial) == (1, 1):
            end(server)

    options = {"tracker": address, "key": "fragile", "timeout": 3, "progress": pull_the_plug}
    with pytest.raises(ClusterError, match="no device under the key 'fragile'"):
        decnn_tvm.tune(network, tmp_path, trials=2, **options, **OPTIONS)
    report = decnn_tvm.tune(network, tmp_path, trials=2, **OPTIONS)
    assert [task.new for task in report.tasks] == [0, 1, 2]


@pytest.mark.slow
def test_a_board_without_power_blames_no_candidate(
    network: Network, address: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tracker keeps a board as long as its connection stands, here of a stopped process."""
    monkeypatch.setattr(tracker_module, "PATIENCE", 1.0)
    server = serve("silent")

    def cut_the_power(state: Any) -> None:
        if (state.task, state.trial) == (0, 1):
            os.killpg(server.pid, signal.SIGSTOP)

    options = {"tracker": address, "key": "silent", "timeout": 3, "progress": cut_the_power}
    with pytest.raises(ClusterError, match=r"under the key 'silent' .* does not answer"):
        decnn_tvm.tune(network, tmp_path, trials=2, **options, **OPTIONS)
    assert known_boards(address, "silent") == 1
    lines = (tmp_path / RECORDS).read_text().splitlines()
    assert [json.loads(line)[1][1] != [FAILED] for line in lines] == [True]


class Flaky:
    """Fails on its second call, as where a board goes, and works on all others."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        self.calls += 1
        error = "the connection is closed" if self.calls == 2 else None
        result = SimpleNamespace(run_secs=None if error else [1e-6], error_msg=error)
        return [SimpleNamespace(result=lambda: result)]


@pytest.mark.slow
def test_another_board_measures_what_a_lost_one_did_not(
    network: Network, address: str, serve: Serve, tmp_path: Path
) -> None:
    serve("spare")
    options = {"tracker": address, "key": "spare", "runner": Flaky()}
    report = decnn_tvm.tune(network, tmp_path, trials=2, **options, **OPTIONS)
    assert [(task.measured, task.failures) for task in report.tasks] == [(2, {})] * 3


def test_a_key_that_no_board_has(
    network: Network, address: str, serve: Serve, tmp_path: Path
) -> None:
    serve("another")
    with pytest.raises(ClusterError, match=r"no device under the key 'pi'; it has .*'another'"):
        decnn_tvm.tune(network, tmp_path, tracker=address, key="pi", **OPTIONS)


def test_no_tracker(network: Network, tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match="no RPC tracker answers"):
        decnn_tvm.tune(network, tmp_path, tracker=nowhere, key="pi", **OPTIONS)


def test_something_else_than_a_tracker(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no RPC tracker answers"):
            decnn_tvm.tune(network, tmp_path, tracker=address, key="pi", **OPTIONS)
