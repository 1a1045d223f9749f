# SPDX-License-Identifier: Apache-2.0
"""A worker that is a board for tuning as well, behind a real tracker on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tvm.support.popen_pool import PopenPoolExecutor

import decnn_tvm
from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.network import Network
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.tuning_process import Tuning
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.boards import known_boards, running_tracker, running_worker, wait_until
from decnn_tvm.tuning.board_check import check_board
from decnn_tvm.tuning.tracker import Tracker

KEY = "bench"
OPTIONS = {"workers": 1, "winograd": False}


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    with running_tracker() as address:
        yield address


@pytest.fixture(scope="module")
def worker(tracker: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with running_worker(tracker, KEY) as (process, address):
        yield process, address
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_it_measures_and_serves(
    network: Network, tracker: str, worker: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    report = decnn_tvm.tune(network, tmp_path, trials=1, tracker=tracker, key=KEY, **OPTIONS)
    assert all(task.measured == 1 and not task.failures for task in report.tasks)
    remote = RemoteWorker(worker[1], "worker", 30.0)
    assert not [name for name in remote.call("modules") if name.startswith(("tvm.", "psutil"))]
    remote.disconnect()


def test_a_board_of_another_kind(tracker: str, worker: object) -> None:
    board = Tracker.parse(tracker, KEY)
    host = resolve_target("host")
    pool = PopenPoolExecutor(max_workers=1, timeout=60)
    check_board(board, host, pool, 60)
    with pytest.raises(ClusterError, match=r"target .host. is code for vax"):
        check_board(board, replace(host, machine="vax"), pool, 60)
    with pytest.raises(ClusterError, match=r"lacks the CPU features \['warp'\]"):
        check_board(board, replace(host, features=("warp",)), pool, 60)
    pool.shutdown(wait=True)
    hasty = PopenPoolExecutor(max_workers=1, timeout=1)
    with pytest.raises(ClusterError, match="does not answer"):
        check_board(replace(board, key="nobody"), host, hasty, 60)
    hasty.shutdown(wait=True)


def test_a_server_that_ends_comes_back(
    tracker: str, worker: tuple[subprocess.Popen[bytes], str]
) -> None:
    (child,) = psutil.Process(worker[0].pid).children()
    os.killpg(child.pid, signal.SIGKILL)
    wait_until(lambda: known_boards(tracker, KEY) == 0)
    wait_until(lambda: known_boards(tracker, KEY) == 1)


def test_tuning_stays_on_loopback() -> None:
    for tracker, key in (("nowhere", "pi"), ("127.0.0.1:0", "pi"), ("127.0.0.1:9190", "")):
        with pytest.raises(InputError, match="expected"):
            Tuning(tracker=tracker, key=key)
    open_one = Tuning(tracker="127.0.0.1:9190", key="pi", host="192.0.2.1")
    with pytest.raises(InputError, match="asks nobody who he is"):
        open_one.check(insecure=False)
    open_one.check(insecure=True)
