# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest

from decnn_tvm.errors import ClusterError, ClusterTimeout
from decnn_tvm.runtime import LocalCluster, probe
from decnn_tvm.runtime.probe import LinkSpeed, Measurement
from decnn_tvm.runtime.transport import Transport, ZmqTransport
from decnn_tvm.testing.boards import free_port
from decnn_tvm.testing.link_proxy import Proxies

CLUSTER = bytes(range(16))


def ends(number: int = 0) -> tuple[Measurement, Measurement]:
    return (
        Measurement(number=number, rank=0, peer=1, cluster=CLUSTER),
        Measurement(number=number, rank=1, peer=0, cluster=CLUSTER),
    )


def between(first: Transport, second: Transport, number: int = 0) -> LinkSpeed:
    """Measure from the first end to the second, which answers in a thread."""
    here, there = ends(number)
    thread = threading.Thread(target=there.answer, args=(second,))
    thread.start()
    try:
        return here.measure(first)
    finally:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as made:
        yield made


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_slow_link_is_measured(proxies: Proxies, encrypt: bool) -> None:
    transports = [ZmqTransport(encrypt=encrypt) for _ in range(2)]
    with contextlib.closing(transports[0]) as first, contextlib.closing(transports[1]) as second:
        port, _, key = second.locator.partition("#")
        through = proxies.route(0, 1, f"127.0.0.1:{port}")
        first.connect({1: f"{through}#{key}" if key else through})
        second.connect({0: f"127.0.0.1:{first.locator}"})
        free = between(first, second)
        proxies.links[0, 1].rate = 1e6  # bytes
        slow = between(first, second, number=1)
    # What the proxy waits for is a lower bound, and its sleeps are longer than asked for.
    assert slow.bandwidth < 8e6 < free.bandwidth
    assert 0 < free.latency < 1


def test_a_peer_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ANSWER", 0.1)
    with contextlib.closing(ZmqTransport()) as alone:
        alone.connect(dict.fromkeys((0, 1), f"127.0.0.1:{free_port()}"))
        for act in (ends()[0].measure, ends()[1].answer):
            with pytest.raises(ClusterTimeout, match="firewall"):
                act(alone)


def test_workers_measure_one_at_a_time_and_only_when_idle() -> None:
    with LocalCluster(1) as cluster:
        worker = cluster.workers[0]
        with pytest.raises(ClusterError, match="no measurement is open"):
            request = {"number": 0, "rank": 0, "peer": 1, "address": "127.0.0.1:1"}
            worker.call("probe", "measure", json.dumps(request))
        start = json.dumps({"cluster": CLUSTER.hex()})
        first = worker.call("probe", "open", start)
        assert first.isdecimal() and worker.call("probe", "open", start) != first
        with pytest.raises(ClusterError, match="no step 'dance'"):
            worker.call("probe", "dance", json.dumps(request))
        with pytest.raises(ClusterError, match="no such request"):
            worker.call("probe", "answer", "{}")
        worker.call("probe", "close", "{}")
        worker.call("open")
        with pytest.raises(ClusterError, match="busy with another session"):
            worker.call("probe", "open", start)
