# SPDX-License-Identifier: Apache-2.0
"""What becomes of workers that were added: in their session, and for the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from decnn_tvm.errors import ClusterError, PartitionError
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.remote_worker import RemoteWorker
from tests.runtime.test_takeover import STAY_AWAY, kill, stream_with


@pytest.fixture(scope="module")
def five() -> Iterator[LocalCluster]:
    with LocalCluster(5, timeout=30, threads=1) as cluster:
        yield cluster


@pytest.fixture
def addresses(five: LocalCluster) -> list[str]:
    return [worker.address for worker in five.workers]


def test_a_spare_does_not_keep_the_next_session_from_its_start(
    hand_net, addresses: list[str], caplog
) -> None:
    with Cluster.connect(addresses[:4], timeout=30) as cluster:
        with cluster.deploy(hand_net.package) as session:
            session.add_worker(addresses[4])
            stream_with(session, hand_net, lambda: None)
            assert [len(groups) for groups in session.assignment] == [1, 1, 1, 1, 0]
            assert len(session.stats()) == 5
        with cluster.deploy(hand_net.package) as session:
            assert "more workers than 4 channel groups: ['worker 4 at" in caplog.text
            stream_with(session, hand_net, lambda: session.add_worker(addresses[4]))
            assert len(session.stats()) == len(cluster.workers) == 5
        with pytest.raises(PartitionError, match="5 workers"):
            cluster.enlist(hand_net.package)
        with cluster.deploy(hand_net.package, shares=[1, 1, 1, 1]) as session:
            stream_with(session, hand_net, lambda: None)


def test_a_spare_is_used_where_another_is_gone(hand_net) -> None:
    with LocalCluster(5, timeout=30, threads=1, restart=False) as cluster:
        kill(cluster, 1)
        cluster._processes[1].wait(30)
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            assert [len(groups) for groups in session.assignment] == [1, 0, 1, 1, 1]
            stream_with(session, hand_net, lambda: None)


def test_a_newcomer_that_can_t_be_taken_is_forgotten(hand_net, addresses: list[str]) -> None:
    with Cluster.connect(addresses[:2], timeout=30) as cluster:
        with Cluster.connect([addresses[2]], timeout=30) as other:
            with cluster.deploy(hand_net.package) as session, other.deploy(hand_net.package):
                with pytest.raises(ClusterError, match="busy with another session"):
                    session.add_worker(addresses[2])
                assert len(cluster.workers) == len(session.stats()) == 2
                stream_with(session, hand_net, lambda: None)
        with cluster.deploy(hand_net.package) as session:
            session.add_worker(addresses[2])
            assert session.assignment == ((0, 1), (2,), (3,))
        assert len(cluster.workers) == 3


def test_a_newcomer_that_is_lost_is_forgotten_with_the_session(
    hand_net, addresses: list[str], monkeypatch
) -> None:
    """It is connected to and gets its files; the call that starts it fails."""
    ask: Any = RemoteWorker.ask

    def starts(self: RemoteWorker, method: str, read: Any, *args: Any, **more: Any) -> Any:
        if method == "start" and json.loads(args[0])["rank"] == 2:
            raise ClusterError("it does not start")
        return ask(self, method, read, *args, **more)

    monkeypatch.setattr(RemoteWorker, "ask", starts)
    with Cluster.connect(addresses[:2], timeout=30) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            stream_with(session, hand_net, lambda: session.add_worker(addresses[2]))
            assert session.assignment == ((0, 1), (2, 3), ())
            assert len(session.stats()) == 3
        assert [worker.address for worker in cluster.workers] == addresses[:2]
