# SPDX-License-Identifier: Apache-2.0
"""A worker that answers as none of this version does is an error of our own, wherever it is met."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rpyc

from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.runtime import local_cluster
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.control_server import ControlServer
from decnn_tvm.runtime.engine import Counters, device_status
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.machine import this_machine
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.statistics import checked_status
from decnn_tvm.runtime.worker import _wait_until_active
from tests.runtime.conftest import make_plan
from tests.runtime.test_takeover import until

HELLO = dataclasses.asdict(this_machine())
OTHERS = "is no worker of this version"


def result(value: Any) -> str:
    return json.dumps({"result": value})


@contextlib.contextmanager
def worker_that_says(**answers: str) -> Iterator[str]:
    """Serve these answers by method; yield the address."""

    class Service(rpyc.Service):  # type: ignore[misc]
        def exposed_close(self) -> str:
            return result(True)

    for method, answer in answers.items():
        setattr(Service, f"exposed_{method}", lambda self, *args, answer=answer: answer)
    server = ControlServer(Service, "127.0.0.1", 0, 30.0, None)
    thread = threading.Thread(target=server.start, daemon=True)
    thread.start()
    _wait_until_active(server)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.close()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "answer",
    [
        "5",
        "{}",
        "[" * 100_000,
        json.dumps({"error": 5, "message": "no"}),
        json.dumps({"error": "ClusterError"}),
        result(None),
        result(HELLO | {"features": 5}),
        result(HELLO | {"versions": {"decnn-tvm": 1}}),
        result({"machine": "x86_64", "features": []}),
    ],
    ids=range(9),
)
def test_a_greeting_that_is_none(answer: str) -> None:
    with worker_that_says(hello=answer) as address:
        with pytest.raises(ClusterError, match=OTHERS):
            Cluster.connect([address], timeout=30)


@pytest.mark.parametrize("capacity", ["much", True, None, float("inf")])
def test_a_capacity_and_a_port_that_are_none(hand_net, capacity: object) -> None:
    answers = {"hello": result(HELLO), "capacity": result(capacity), "open": result(7)}
    with worker_that_says(**answers) as address, Cluster.connect([address], timeout=30) as cluster:
        with pytest.raises(ClusterError, match=rf"'capacity' {OTHERS}"):
            cluster.deploy(hand_net.package)
    answers["capacity"] = result(1 << 30)
    with worker_that_says(**answers) as address, Cluster.connect([address], timeout=30) as cluster:
        with pytest.raises(ClusterError, match=rf"'open' {OTHERS} .* in place of a string"):
            cluster.deploy(hand_net.package)


def test_a_status_that_is_none() -> None:
    plan, status = make_plan(), device_status(Counters(), None, None)
    assert checked_status(plan, status) is status
    for change in (
        {"samples": "many"},
        {"sent_bytes": {"99": 1}},
        {"sent_bytes": {"0": None}},
        {"wait_seconds": None},
        {"timeline": [["compute", 0, "stage0", 0.0]]},
        {"timeline": [["compute", 0, "stage0", 0.0, "end"]]},
    ):
        with pytest.raises((TypeError, ValueError, LookupError)):
            checked_status(plan, status | change)


class Board(LocalCluster):
    """Where its lost worker was, another one answers."""

    replaced_by = ""
    tries = 0

    def revive(self, rank: int) -> RemoteWorker:
        self.tries += 1
        worker = RemoteWorker(self.replaced_by, "worker 1", 30.0)
        self._workers[rank] = worker
        return worker


@pytest.mark.parametrize("hello", [result(HELLO | {"more": 1, "versions": {}}), result(5), "5"])
def test_a_board_that_comes_back_with_another_version(hand_net, hello: str) -> None:
    with worker_that_says(hello=hello) as address, Board(2, timeout=30) as cluster:
        cluster.replaced_by = address
        with cluster.deploy(hand_net.package) as session:
            session.run(hand_net.samples(1)[0])
            cluster._processes[1].kill()
            until(session, hand_net, lambda: cluster.tries > 1)
            assert session.assignment == ((0, 1, 2, 3), ())


def test_a_later_version_is_told_by_its_number(hand_net) -> None:
    later = HELLO | {"more": 1, "versions": HELLO["versions"] | {"decnn-tvm": "99.0"}}
    with worker_that_says(hello=result(later)) as address:
        with Cluster.connect([address], timeout=30) as cluster:
            with pytest.raises(PackageError, match=r"decnn-tvm .* \(worker: 99\.0\)"):
                cluster.deploy(hand_net.package)


@pytest.mark.parametrize(
    ("script", "message"),
    [("exec 1>&-; exec sleep 60", "did not start"), ("echo 1; exec sleep 60", "in place of its")],
)
def test_a_process_that_is_no_worker(monkeypatch, tmp_path: Path, script: str, message) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(local_cluster.sys, "executable", str(program))
    monkeypatch.setattr(local_cluster, "STOP_TIMEOUT", 0.2)
    with pytest.raises(ClusterError, match=message):
        LocalCluster(1, timeout=30)
