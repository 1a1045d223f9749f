# SPDX-License-Identifier: Apache-2.0
"""Random and mutated messages on both planes: no crash, no effect, bounded memory."""

from __future__ import annotations

import random
import resource
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest

from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.traffic import Traffic
from decnn_tvm.runtime.wire import Header, encode
from decnn_tvm.testing import fuzzing
from decnn_tvm.testing.attackers import listening_ports
from decnn_tvm.testing.boards import wait_until
from decnn_tvm.testing.siege import STEADFAST, Witness, besiege

MEGABYTES = 24
"""What a worker may grow by: its C library keeps freed memory."""


def test_no_message_of_a_stranger_counts() -> None:
    rng = random.Random(3)
    cluster = bytes(16)
    header = Header(cluster=cluster, epoch=0, sample=1, movement=0, source=0, target=1)
    valid = [bytes(frame) for frame in encode(header, [rng.randbytes(300), rng.randbytes(20)])]
    traffic = Traffic(cluster)
    assert traffic.decode(valid) is not None
    for count in range(20_000):
        assert traffic.decode(fuzzing.data_message(rng, valid)) is None
        assert traffic.refused == count + 1


def test_messages_repeat_with_their_seed() -> None:
    def draw(seed: int) -> list[object]:
        rng = random.Random(seed)
        makers = (fuzzing.zmtp_bytes, fuzzing.control_bytes, fuzzing.control_request)
        return [make(rng) for make in makers for _ in range(50)]

    assert draw(5) == draw(5) != draw(6)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_session_under_siege(hand_net, tmp_path: Path, keyed: bool) -> None:
    make_keys(tmp_path / "own")
    make_keys(tmp_path / "other")
    samples = hand_net.samples(4)
    with LocalCluster(2, timeout=30, keys=tmp_path / "own" if keyed else None) as cluster:
        session = cluster.deploy(hand_net.package, policy=STEADFAST)
        with session, Witness(session, samples) as witness:
            for x, y in zip(samples, witness.expected, strict=True):
                hand_net.check(x, y)
            folders = (tmp_path / "own/coordinator", tmp_path / "other/coordinator")
            counts, tolls = besiege(cluster, session, 1500, 7, folders if keyed else None)
            during = witness.count
            assert sum(counts.values()) >= 1499
        assert not witness.error and not witness.wrong and witness.count >= during > 20
        for toll in tolls:
            assert toll.alive and toll.refused > 100
            assert toll.memory_growth < MEGABYTES << 20
            assert toll.descriptor_growth <= 0 and toll.thread_growth <= 0
        with cluster.deploy(hand_net.package) as session:
            hand_net.check(samples[0], session.run(samples[0]))


def test_a_worker_without_descriptors_computes_on(hand_net) -> None:
    """More connections than the worker may have files open: they wait, and it serves again."""
    x = hand_net.samples(1)[0]
    with LocalCluster(1, timeout=30) as cluster, cluster.deploy(hand_net.package) as session:
        hand_net.check(x, session.run(x))
        (process_id,) = cluster.process_ids
        control = int(cluster.workers[0].address.rpartition(":")[2])
        (data,) = listening_ports(process_id) - {control}
        limit = psutil.Process(process_id).num_fds() + 10
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (limit, limit))
        crowd = [
            socket.create_connection(("127.0.0.1", port), timeout=10)
            for _ in range(40)
            for port in (control, data)
        ]
        for _ in range(20):
            hand_net.check(x, session.run(x))
        for sock in crowd:
            sock.close()
        wait_until(lambda: psutil.Process(process_id).num_fds() < limit - 2)
        Cluster.connect([cluster.workers[0].address], timeout=10).close()
        hand_net.check(x, session.run(x))


def test_a_crowd_without_certificates_does_not_lock_out(hand_net, tmp_path: Path) -> None:
    """Many silent connections: each is dropped in time, and descriptors come back."""
    make_keys(tmp_path)
    with LocalCluster(1, timeout=30, keys=tmp_path) as cluster:
        with cluster.deploy(hand_net.package) as session:
            control = int(cluster.workers[0].address.rpartition(":")[2])
            (data,) = listening_ports(cluster.process_ids[0]) - {control}
            crowd = [
                socket.create_connection(("127.0.0.1", port), timeout=10)
                for port in (control, data)
                for _ in range(100)
            ]
            x = hand_net.samples(1)[0]
            hand_net.check(x, session.run(x))
            for sock in crowd:
                sock.close()
            hand_net.check(x, np.asarray(session.run(x)))
            # At most 16 may be silent at once; the others are refused as they come.
            wait_until(lambda: cluster.workers[0].observe().refused_clients >= 84)
            Cluster.connect(
                [cluster.workers[0].address], timeout=10, keys=tmp_path / "coordinator"
            ).close()
