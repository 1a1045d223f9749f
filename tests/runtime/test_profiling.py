# SPDX-License-Identifier: Apache-2.0
"""Measuring workers: what is measured is there, has its units, and predicts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.planning.prediction import predict, profiled_machines
from decnn_tvm.profiling import Profile, measure_profile, measuring
from decnn_tvm.runtime import LocalCluster
from decnn_tvm.transfers import HOST


@pytest.fixture(scope="module")
def profile(hand_net) -> Profile:
    with LocalCluster(2, threads=1) as cluster:
        found = measure_profile(cluster, hand_net.package, shares=(3, 1), seconds=0.2)
        # The workers are idle again, and nothing is left of it.
        with cluster.deploy(hand_net.package) as session:
            (sample,) = hand_net.samples(1)
            hand_net.check(sample, session.run(sample))
    return found


def test_stages_links_and_messages_are_measured(profile: Profile) -> None:
    assert [worker.groups for worker in profile.workers] == [3, 1]
    for worker in profile.workers:
        assert [stage.function for stage in worker.stages] == ["stage0", "stage1"]
        assert all(0 < stage.seconds < 1 for stage in worker.stages)
        for stage in worker.stages:
            assert stage.kernels and sum(stage.kernels.values()) == pytest.approx(1)
        assert worker.weight_bytes > 0 and worker.target == "generic"
    for machine in (*profile.workers, profile.coordinator):
        assert 0 < machine.seconds_per_message < 0.1 and 0 < machine.seconds_per_byte < 1e-6
    assert {frozenset(link.between) for link in profile.links} == {
        frozenset(pair)
        for pair in (
            ("coordinator", "worker-0"),
            ("coordinator", "worker-1"),
            ("worker-0", "worker-1"),
        )
    }
    assert all(link.bytes_per_second > 1e6 for link in profile.links)
    assert (
        profile.coordinator_bytes_per_second is not None
        and profile.coordinator_bytes_per_second > 1e6
    )


def test_a_profile_predicts(profile: Profile, hand_net) -> None:
    outcome = predict(profile, hand_net.package.plan, window=1, samples=3)
    slowest = max(sum(stage.seconds for stage in w.stages) for w in profile.workers)
    assert slowest < outcome.latency_seconds < 1
    machines = profiled_machines(profile)
    assert machines.link_of(HOST, 1) == machines.links[HOST, 1]
    assert {device.port_bytes_per_second for device in machines.devices} == {None}
    first, second = profile.workers
    halved = dataclasses.replace(second, stages=second.stages[:1])
    lacking = dataclasses.replace(profile, workers=(first, halved))
    with pytest.raises(InputError, match="how long 'stage1' takes on worker-1"):
        predict(lacking, hand_net.package.plan, window=1, samples=1)
    other = dataclasses.replace(hand_net.package.plan, model="another")
    with pytest.raises(InputError, match="another package"):
        predict(profile, other, window=1, samples=1)


def test_files(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile.write(path)
    assert Profile.read(path) == profile
    data = json.loads(path.read_text())
    # Earlier versions did not measure it.
    path.write_text(
        json.dumps({k: v for k, v in data.items() if k != "coordinator_bytes_per_second"})
    )
    assert Profile.read(path) == dataclasses.replace(profile, coordinator_bytes_per_second=None)
    for change, text in (
        ({"schema": 7}, "schema 7, expected 1"),
        ({"workers": 3}, "damaged"),
        ({"links": [{"between": ["a"]}]}, "damaged"),
        ({"extra": 1}, "damaged"),
        ({"coordinator_bytes_per_second": "fast"}, "damaged"),
    ):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(InputError, match=text):
            Profile.read(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="schema None"):
        Profile.read(path)
    with pytest.raises(InputError, match="can't be read"):
        Profile.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="can't be written"):
        profile.write(tmp_path / "none" / "profile.json")


def test_a_worker_lost_meanwhile_ends_it(hand_net, monkeypatch: pytest.MonkeyPatch) -> None:
    run_samples = measuring.run_samples
    with LocalCluster(2, threads=1) as cluster:

        def after_a_loss(*arguments):
            os.kill(cluster.process_ids[1], signal.SIGKILL)
            return run_samples(*arguments)

        monkeypatch.setattr(measuring, "run_samples", after_a_loss)
        with pytest.raises(ClusterError, match="worker 1"):
            measuring.measure_profile(cluster, hand_net.package, seconds=0.2)


def test_busy_workers_are_not_measured(hand_net) -> None:
    with LocalCluster(1, threads=1) as cluster, cluster.deploy(hand_net.package):
        with pytest.raises(ClusterError, match="busy"):
            measure_profile(cluster, hand_net.package)
