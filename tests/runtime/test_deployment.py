# SPDX-License-Identifier: Apache-2.0
"""Stages and loading that outlast what was meant to end them: nothing is lost, nothing leaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.errors import ClusterError
from decnn_tvm.package import MANIFEST
from decnn_tvm.runtime.control import WorkerState
from decnn_tvm.runtime.deployment import Deployment
from decnn_tvm.runtime.engine import Engine
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.share import Share
from decnn_tvm.runtime.start_request import StartRequest
from decnn_tvm.transfers import HOST

GROUPS = (0, 1, 2, 3)
OWNER = object()


class Gate:
    """Something that goes on when it may."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WorkerState]:
    made = WorkerState(tmp_path, "127.0.0.1", 0.05)
    yield made
    made.shut_down()


@pytest.fixture
def long_stage(gate: Gate, monkeypatch) -> Gate:
    """A stage that is under way when it is to stop, and goes on until the gate opens."""

    def loop(self: Engine, stopping: threading.Event, poll: float = 0.1) -> None:
        assert stopping.wait(60)
        gate()

    monkeypatch.setattr(Engine, "loop", loop)
    return gate


@pytest.fixture
def long_load(gate: Gate, monkeypatch) -> Gate:
    """Weights that are loaded when the gate opens."""
    packed = Share._packed

    def slowly(self, package, target, groups):
        gate()
        return packed(self, package, target, groups)

    monkeypatch.setattr(Share, "_packed", slowly)
    return gate


def request(package, epoch: int, patience: float = 60.0) -> StartRequest:
    return StartRequest(
        rank=0,
        target="generic",
        assignment=(GROUPS,),
        addresses={HOST: "127.0.0.1:1"},
        cluster=bytes(16).hex(),
        package=package.digest,
        epoch=epoch,
        patience=patience,
    )


def opened(state: WorkerState, package) -> Deployment:
    deployment = state.open(OWNER, Policy(), bytes(16), 1 << 20)
    for name in (MANIFEST, *package.files_for("generic", GROUPS)):
        deployment.upload(name, 0, (package.path / name).read_bytes())
    return deployment


def check_free(deployment: Deployment, state: WorkerState) -> None:
    """Nothing of a deployment is left, and the next one can come."""
    assert deployment.ended.wait(60)
    assert deployment._share.library is None and deployment._engine is None
    assert not deployment._folder.exists()
    for thread in (deployment.transport._receiver, deployment._thread):
        assert thread is None or not thread.is_alive()
    state.open(OWNER, Policy(), bytes(16), 1 << 20)
    assert state.close(OWNER)


def test_a_new_epoch_waits_for_a_long_stage(hand_net, state, long_stage: Gate) -> None:
    deployment = opened(state, hand_net.package)
    deployment.start(request(hand_net.package, 0))
    with pytest.raises(ClusterError, match=r"a stage did not end within 0\.01 s"):
        deployment.start(request(hand_net.package, 1, patience=0.01))
    with ThreadPoolExecutor(1) as pool:
        start: Future[None] = pool.submit(deployment.start, request(hand_net.package, 1))
        assert long_stage.reached.wait(60) and not start.done()
        long_stage.open.set()
        start.result(60)
    state.close(OWNER)
    check_free(deployment, state)


def test_the_wait_for_a_stage_is_most_of_that_for_the_call(hand_net, monkeypatch) -> None:
    ask: Any = RemoteWorker.ask
    asked = []

    def starts(self: RemoteWorker, method: str, read: Any, *args: Any, **more: Any) -> Any:
        if method == "start":
            asked.append(json.loads(args[0])["patience"])
        return ask(self, method, read, *args, **more)

    monkeypatch.setattr(RemoteWorker, "ask", starts)
    with LocalCluster(1, timeout=40) as cluster, cluster.deploy(hand_net.package):
        assert asked == [30.0]


def test_what_a_long_stage_holds_is_freed_when_it_ends(hand_net, state, long_stage: Gate) -> None:
    deployment = opened(state, hand_net.package)
    deployment.start(request(hand_net.package, 0))
    assert not state.close(OWNER)
    assert state.close(OWNER)  # it is not his any more
    with pytest.raises(ClusterError, match="busy with a stage of a session that was closed"):
        state.open(OWNER, Policy(), bytes(16), 1 << 20)
    assert deployment._share.library is not None and not deployment.ended.is_set()
    long_stage.open.set()
    check_free(deployment, state)


def test_a_session_that_is_closed_while_it_loads_does_not_start(
    hand_net, state, long_load: Gate
) -> None:
    """As where the coordinator falls silent: another thread closes."""
    deployment = opened(state, hand_net.package)
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(deployment.start, request(hand_net.package, 0))
        assert long_load.reached.wait(60)
        assert not state.close(OWNER)
        long_load.open.set()
        with pytest.raises(ClusterError, match="the session has been closed"):
            start.result(60)
    check_free(deployment, state)
    for later in (
        lambda: deployment.upload(MANIFEST, 0, b"{}"),
        lambda: deployment.start(request(hand_net.package, 1)),
        lambda: deployment.time_stages(0.1),
    ):
        with pytest.raises(ClusterError, match="the session has been closed"):
            later()
    assert not deployment._folder.exists()
