# SPDX-License-Identifier: Apache-2.0
"""Devices are lost, come and come back while samples stream: every result is there and right.

Faults happen at a given sample. Worker processes on this machine; restart=False where a test looks
at who is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import zmq

from decnn_tvm.errors import ClusterError, MemoryShortage
from decnn_tvm.manifest import MANIFEST
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.sender import Peer, Sender
from decnn_tvm.runtime.session import Session
from decnn_tvm.testing.link_proxy import Proxies
from decnn_tvm.transfers import HOST

STAY_AWAY = Policy(rejoin=False)


class ProxiedCluster(LocalCluster):
    def __init__(self, count: int, proxies: Proxies) -> None:
        self._proxies = proxies
        super().__init__(count, timeout=30, restart=False)

    def route(self, source: int, target: int, address: str) -> str:
        return self._proxies.route(source, target, address)


def stream_with(session: Session, hand_net, fault: Callable[[], None], count: int = 40) -> None:
    """Stream `count` samples; the fault happens after the tenth result, with four under way."""
    samples = hand_net.samples(5)
    seen = 0
    for x, y in zip(
        islice(cycle(samples), count),
        session.stream(islice(cycle(samples), count), in_flight=4),
        strict=True,
    ):
        hand_net.check(x, y)
        seen += 1
        if seen == 10:
            fault()
    assert seen == count


def kill(cluster: LocalCluster, *ranks: int) -> None:
    for rank in ranks:
        os.kill(cluster.process_ids[rank], signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=str)
def test_survivors_take_over(hand_net, number: signal.Signals) -> None:
    with LocalCluster(3, timeout=30, restart=False) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            assert session.assignment == ((0, 1), (2,), (3,))
            stream_with(session, hand_net, lambda: os.kill(cluster.process_ids[1], number))
            assert session.assignment == ((0, 1), (), (2, 3))
            assert [s.groups for s in session.stats()] == [(0, 1), (), (2, 3)]
            stream_with(session, hand_net, lambda: kill(cluster, 0))
            assert session.assignment == ((), (), (0, 1, 2, 3))


def test_a_message_that_zeromq_refuses_is_sent_again(
    hand_net, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_one, refusals = Sender._send_one, [zmq.ZMQError(zmq.EFSM)]

    def refusing(own: Sender, rank: int, peer: Peer) -> None:
        if refusals and not peer.beat:
            raise refusals.pop()
        send_one(own, rank, peer)

    x = hand_net.samples(1)[0]
    with LocalCluster(2, timeout=15) as cluster, cluster.deploy(hand_net.package) as session:
        hand_net.check(x, session.run(x))
        monkeypatch.setattr(Sender, "_send_one", refusing)
        hand_net.check(x, session.run(x))
        assert not refusals and session.assignment == ((0, 1), (2, 3))


def test_two_at_once(hand_net) -> None:
    with LocalCluster(3, timeout=30, restart=False) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            stream_with(session, hand_net, lambda: kill(cluster, 0, 2))
            assert session.assignment == ((), (0, 1, 2, 3), ())


def test_a_loss_during_a_takeover(hand_net) -> None:
    """The dead one starts the takeover, in which the frozen one does not take part."""
    with LocalCluster(3, timeout=30, restart=False) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:

            def fault() -> None:
                os.kill(cluster.process_ids[1], signal.SIGSTOP)
                kill(cluster, 2)

            stream_with(session, hand_net, fault)
            assert session.assignment == ((0, 1, 2, 3), (), ())


def test_nobody_is_left(hand_net) -> None:
    with LocalCluster(2, timeout=30, restart=False) as cluster:
        session = cluster.deploy(hand_net.package, policy=STAY_AWAY)
        session.run(hand_net.samples(1)[0])
        kill(cluster, 0, 1)
        with pytest.raises(ClusterError, match=r"no worker is left(?s:.*)worker 1 .*SIGKILL"):
            session.run(hand_net.samples(1)[0])
        with pytest.raises(ClusterError, match="the session has failed"):
            session.run(hand_net.samples(1)[0])


def test_all_at_once_are_waited_for(hand_net) -> None:
    with LocalCluster(2, timeout=30) as cluster:
        policy = Policy(patience=30.0)
        with cluster.deploy(hand_net.package, policy=policy) as session:
            stream_with(session, hand_net, lambda: kill(cluster, 0, 1))
            assert sorted(g for groups in session.assignment for g in groups) == [0, 1, 2, 3]


@pytest.mark.parametrize("peer", [HOST, 0])
def test_a_link_is_cut(hand_net, peer: int) -> None:
    with Proxies() as proxies, ProxiedCluster(3, proxies) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            stream_with(session, hand_net, lambda: proxies.cut(proxies.links[2, peer], True))
            assert session.assignment == ((0, 1), (2, 3), ())


def test_damage_costs_an_epoch_and_no_device(hand_net) -> None:
    with Proxies() as proxies, ProxiedCluster(3, proxies) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            link = proxies.links[0, 1]
            link.threshold = 0
            stream_with(session, hand_net, lambda: setattr(link, "corrupt", 1))
            assert link.corrupt == 0
            assert session.assignment == ((0, 1), (2,), (3,))


def until(session: Session, hand_net, reached: Callable[[], bool]) -> None:
    """Stream until something is so."""
    samples = hand_net.samples(5)
    end = time.monotonic() + 60

    def source() -> Iterator[np.ndarray]:
        for x in cycle(samples):
            if reached():
                return
            assert time.monotonic() < end
            yield x

    for x, y in zip(cycle(samples), session.stream(source(), in_flight=3), strict=False):
        hand_net.check(x, y)


def test_a_worker_that_was_killed_is_started_and_taken_in_again(hand_net) -> None:
    with LocalCluster(3, timeout=30) as cluster:
        with cluster.deploy(hand_net.package) as session:
            before = cluster.process_ids
            stream_with(session, hand_net, lambda: kill(cluster, 0))
            until(session, hand_net, lambda: all(session.assignment))
            assert cluster.process_ids[0] != before[0]
            assert cluster.process_ids[1:] == before[1:]
            stream_with(session, hand_net, lambda: None)
            assert all(s.samples > 0 for s in session.stats())


def test_a_worker_that_was_frozen_is_taken_in_again(hand_net) -> None:
    with LocalCluster(3, timeout=30) as cluster:
        with cluster.deploy(hand_net.package) as session:
            pid = cluster.process_ids[2]
            stream_with(session, hand_net, lambda: os.kill(pid, signal.SIGSTOP))
            assert not session.assignment[2]
            os.kill(pid, signal.SIGCONT)
            until(session, hand_net, lambda: all(session.assignment))
            assert cluster.process_ids[2] == pid


def test_a_worker_that_is_frozen_when_it_is_to_take_over_comes_back_to_its_groups(hand_net) -> None:
    """That its call is given up does not mean that its share has ended it."""
    with LocalCluster(4, timeout=30) as cluster:
        with cluster.deploy(hand_net.package) as session:
            frozen = cluster.process_ids[1]

            def fault() -> None:
                os.kill(frozen, signal.SIGSTOP)
                kill(cluster, 3)

            stream_with(session, hand_net, fault)
            assert not session.assignment[1]
            os.kill(frozen, signal.SIGCONT)
            until(session, hand_net, lambda: all(session.assignment))
            assert cluster.process_ids[1] == frozen


def test_a_new_worker_is_taken_in_and_one_too_many_is_a_spare(hand_net) -> None:
    with LocalCluster(3, timeout=30) as others, LocalCluster(2, timeout=30) as cluster:
        with cluster.deploy(hand_net.package, policy=STAY_AWAY) as session:
            assert session.assignment == ((0, 1), (2, 3))
            new = [worker.address for worker in others.workers]
            stream_with(session, hand_net, lambda: session.add_worker(new[0]))
            assert session.assignment == ((0, 1), (2,), (3,))
            with pytest.raises(ClusterError, match="takes part already"):
                session.add_worker(new[0])
            with pytest.raises(ClusterError, match="no worker answers"):
                session.add_worker("127.0.0.1:1")
            session.add_worker(new[1])
            session.add_worker(new[2])
            assert [len(groups) for groups in session.assignment] == [1, 1, 1, 1, 0]
            stream_with(session, hand_net, lambda: kill(others, 0))
            assert [len(groups) for groups in session.assignment] == [1, 1, 0, 1, 1]


def test_memory_that_does_not_hold_a_takeover_is_named(hand_net, monkeypatch) -> None:
    monkeypatch.setattr(
        "decnn_tvm.runtime.roster.share_bytes", lambda plan, count: (count > 3) * (1 << 50)
    )
    with LocalCluster(2, timeout=30, restart=False) as cluster:
        session = cluster.deploy(hand_net.package, policy=STAY_AWAY)
        session.run(hand_net.samples(1)[0])
        kill(cluster, 1)
        message = r"worker 0 .* holds at most 3 \(4 take 1125899906\.8 MB, and it has [\d.]+ MB\)"
        with pytest.raises(MemoryShortage, match=message + r"(?s:.*)worker 1 .*SIGKILL"):
            session.run(hand_net.samples(1)[0])


def test_a_worker_keeps_to_its_limit(hand_net) -> None:
    """Both ends refuse: the coordinator by what the worker says it has, the worker at loading."""
    with LocalCluster(1, timeout=30, memory=1 << 20) as cluster:
        with pytest.raises(MemoryShortage, match=r"holds at most 0 \(1 take 0\.0 MB"):
            cluster.deploy(hand_net.package)
        start_anyway(cluster.workers[0], hand_net)


def start_anyway(worker: RemoteWorker, hand_net) -> None:
    package = hand_net.package
    worker.call("open")
    for name in (MANIFEST, *package.files_for("generic", (0, 1, 2, 3))):
        worker.call("upload", name, 0, (package.path / name).read_bytes())
    request = {
        "rank": 0,
        "target": "generic",
        "assignment": [[0, 1, 2, 3]],
        "addresses": {str(HOST): "127.0.0.1:1"},
        "cluster": bytes(16).hex(),
        "package": package.digest,
        "epoch": 0,
    }
    with pytest.raises(MemoryShortage, match=r"4 channel groups take .* its limit is 1\.0 MB"):
        worker.call("start", json.dumps(request))
    with pytest.raises(ClusterError, match="epoch 0 after epoch 0; expected a later one"):
        worker.call("start", json.dumps(request))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=str)
def test_workers_outlive_their_coordinator(hand_net, number: signal.Signals) -> None:
    """Killed, or frozen for longer than they wait: they clean up and serve the next one."""
    script = textwrap.dedent(
        f"""
        import sys, time, numpy as np
        from decnn_tvm.runtime.cluster import Cluster
        from decnn_tvm.runtime.policy import Policy
        x = np.ones((1, 3, 6, 6), np.float32)
        with Cluster.connect(sys.argv[1:], timeout=30) as cluster:
            policy = Policy(orphan=1.0)
            with cluster.deploy({str(hand_net.package.path)!r}, policy=policy) as session:
                session.run(x)
                print("at work", flush=True)
                end = time.monotonic() + 60  # ends by itself where the test itself was killed
                for _ in session.stream(x for _ in iter(lambda: time.monotonic() < end, False)):
                    pass
        """
    )
    x = hand_net.samples(1)[0]
    with LocalCluster(2, timeout=30) as cluster:
        addresses = [worker.address for worker in cluster.workers]
        coordinator = subprocess.Popen(
            [sys.executable, "-c", script, *addresses], stdout=subprocess.PIPE
        )
        try:
            assert coordinator.stdout is not None
            assert coordinator.stdout.readline() == b"at work\n"
            coordinator.send_signal(number)
            hand_net.check(x, deploy_when_free(cluster, hand_net).run(x))
            folders = [path for path in Path(cluster._folder).rglob("session*") if path.is_dir()]
            assert len(folders) == 2, folders
        finally:
            coordinator.kill()
            coordinator.communicate(timeout=30)


def deploy_when_free(cluster: Cluster, hand_net) -> Session:
    end = time.monotonic() + 30
    while True:
        try:
            return cluster.deploy(hand_net.package)
        except ClusterError as error:
            if "busy" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)
