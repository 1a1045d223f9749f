# SPDX-License-Identifier: Apache-2.0
"""What workers show to whoever asks, and how it becomes rates, metrics and log fields."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import urllib.request
from pathlib import Path

import pytest

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime import log_context
from decnn_tvm.runtime.engine import Engine, Link
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.metrics import serve_metrics
from decnn_tvm.runtime.observation import Observation, rates
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.transport import MemoryNetwork
from decnn_tvm.runtime.watching import Watcher
from decnn_tvm.testing.boards import free_port
from decnn_tvm.transfers import HOST


def seen(at: float, samples: int, sent: dict[int, int], session: int = 1) -> Observation:
    return Observation(
        at=at,
        state="running",
        session=session,
        samples=samples,
        compute_seconds=samples * 0.01,
        wait_seconds=1.0,
        transfer_seconds=samples * 0.001,
        sent_bytes=sent,
        groups=(1, 2),
        rank=1,
    )


def test_rates() -> None:
    result = rates(seen(10.0, 100, {0: 1000}), seen(12.0, 150, {0: 5000, HOST: 80}))
    assert result.samples == 25.0
    assert (result.compute, result.wait, result.transfer) == pytest.approx((0.25, 0.0, 0.025))
    assert result.sent == {0: 2000.0, HOST: 40.0} and result.received == {}
    assert rates(seen(10.0, 100, {}), seen(12.0, 2, {}, session=2)).samples == 0.0
    assert rates(seen(10.0, 1, {}), seen(10.0, 1, {})).samples == 0.0


def test_an_observation_survives_json() -> None:
    before = seen(10.0, 100, {0: 1000, HOST: 3})
    assert Observation.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize("keyed", [False, True])
def test_a_session_is_seen_and_not_disturbed(hand_net, tmp_path: Path, keyed: bool) -> None:
    make_keys(tmp_path)
    samples = hand_net.samples(20)
    with LocalCluster(2, timeout=30, keys=tmp_path if keyed else None) as cluster:
        addresses = [worker.address for worker in cluster.workers]
        own = tmp_path / "coordinator" if keyed else None
        everybody = [*addresses, "127.0.0.1:1"]
        with contextlib.closing(Watcher(everybody, keys=own, timeout=10)) as watcher:
            first, second, nobody = watcher.look()
            assert first.observation is not None and first.observation.state == "idle"
            assert nobody.observation is None and "no worker answers" in nobody.error
            with cluster.deploy(hand_net.package) as session:
                for x, y in zip(samples, session.stream(samples, in_flight=3), strict=True):
                    hand_net.check(x, y)
                    looks = watcher.look()
                first, second, _ = (one.observation for one in looks)
                assert first is not None and second is not None
                assert (first.state, first.model, first.rank) == ("running", "hand", 0)
                assert (first.groups, second.groups) == ((0, 1), (2, 3))
                stats = session.stats()
                first, second, _ = (one.observation for one in watcher.look())
                assert first is not None and second is not None
                assert first.samples == second.samples == 20 and not first.open_samples
                assert first.compute_seconds == stats[0].compute_seconds > 0
                assert first.weight_bytes == stats[0].weight_bytes > 0
                assert first.transfer_seconds > 0 and first.resident_bytes > 1 << 24
                # Heartbeats go the same way, and some may be on theirs.
                assert sum(first.sent_bytes.values()) >= sum(stats[0].sent_bytes.values())
                assert second.received_bytes[0] > 0
                assert set(first.received_bytes) == {HOST, 1}
            assert watcher.look()[0].observation.state == "idle"  # type: ignore[union-attr]


def test_a_failed_session_is_seen(hand_net) -> None:
    x = hand_net.samples(1)[0]
    alone = Policy(takeover=False)
    with (
        LocalCluster(1, timeout=30) as cluster,
        cluster.deploy(hand_net.package, policy=alone) as session,
    ):
        session.run(x)
        session._flight._link.send(5, 7, 0, [b"no such movement"])
        with pytest.raises(ClusterError, match="no such transfer"):
            session.run(x)
        observation = cluster.workers[0].observe()
    assert observation.state == "failed" and "no such transfer" in observation.failure


def test_metrics() -> None:
    port = free_port()
    end = serve_metrics(lambda: seen(10.0, 100, {0: 1000, HOST: 3}), str(port))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        end()
    for line in (
        "decnn_samples_total 100.0",
        "decnn_compute_seconds_total 1.0",
        'decnn_sent_bytes_total{peer="0"} 1000.0',
        'decnn_sent_bytes_total{peer="host"} 3.0',
        'decnn_state{state="running"} 1.0',
        'decnn_state{state="idle"} 0.0',
    ):
        assert line in lines


def test_metrics_that_are_refused() -> None:
    with pytest.raises(InputError, match="expected PORT or HOST:PORT"):
        serve_metrics(lambda: seen(0, 0, {}), "http")
    with pytest.raises(InputError, match="other machines may reach it"):
        serve_metrics(lambda: seen(0, 0, {}), "192.0.2.1:9000")
    with pytest.raises(ClusterError, match="can't listen on 192"):
        serve_metrics(lambda: seen(0, 0, {}), "192.0.2.1:9000", insecure=True)


def test_records_name_worker_sample_and_stage(hand_net, caplog: pytest.LogCaptureFixture) -> None:
    """A stage that fails is named, with its sample, in the record of the failure."""
    network = MemoryNetwork([HOST, 0])
    plan = hand_net.package.plan

    def broken(function: str, inputs: object) -> list[object]:
        logging.getLogger("decnn_tvm.test").warning("in the stage")
        raise OSError("no more memory")

    engine = Engine(
        Executor(plan, ((0, 1, 2, 3),), 0), broken, Link(network.transport(0), bytes(16), 0, 0)
    )
    host = Executor(plan, ((0, 1, 2, 3),), HOST)
    link = Link(network.transport(HOST), bytes(16), 0, HOST)
    host.provide(0, {"x": hand_net.samples(1)[0]})
    link.flush(host, engine.counters)
    caplog.handler.addFilter(log_context.add_context)
    log_context.name_process("board:7000")
    try:
        engine.loop(threading.Event(), poll=1.0)
    finally:
        caplog.handler.removeFilter(log_context.add_context)
        log_context.name_process(log_context.NOTHING)
    form = logging.Formatter(log_context.FORMAT)
    texts = [form.format(record).splitlines()[0] for record in caplog.records]
    where = "worker=board:7000/rank0 sample=0 stage=stage0"
    assert f"WARNING {where} decnn_tvm.test: in the stage" in texts
    assert f"ERROR {where} decnn_tvm.runtime.engine: the device stopped" in texts
