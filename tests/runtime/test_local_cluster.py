# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from decnn_tvm.errors import ClusterError, PackageError, PartitionError
from decnn_tvm.package import Package, write_manifest
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.testing.boards import wait_until

FORBIDDEN = ("tvm", "onnx", "onnxruntime", "xgboost", "torch")
COMPILER = ("passes", "schedules", "lowering", "compiler", "frontend", "decoupling", "placement")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z"
    return False


def wait_until_gone(pids: tuple[int, ...], seconds: float = 20.0) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(3, timeout=30) as cluster:
        yield cluster
    assert not wait_until_gone(cluster.process_ids)


def test_outputs_equal_the_reference(three: LocalCluster, hand_net) -> None:
    samples = hand_net.samples(6)
    with three.deploy(hand_net.package) as session:
        hand_net.check(samples[0], session.run(samples[0]))
        for x, y in zip(samples, session.stream(samples, in_flight=3), strict=True):
            hand_net.check(x, y)
        stats = session.stats()
        assert [s.groups for s in stats] == [(0, 1), (2,), (3,)]
        assert all(s.samples == 7 and s.peak_bytes > 0 for s in stats)
        events = session.timeline()
        assert len(events) == 7 * 2 * 3
        assert all(event.start <= event.end for event in events)


def test_results_repeat_to_the_bit(three: LocalCluster, hand_net) -> None:
    x = hand_net.samples(1)[0]
    with three.deploy(hand_net.package, shares=[1, 1, 2]) as session:
        first, *rest = session.stream([x] * 10, in_flight=4)
    assert all(np.array_equal(first, other) for other in rest)


def test_workers_import_no_compiler(three: LocalCluster, hand_net) -> None:
    with three.deploy(hand_net.package) as session:
        session.run(hand_net.samples(1)[0])
        for worker in three.workers:
            modules = set(worker.call("modules"))
            assert not modules.intersection(FORBIDDEN)
            assert not modules.intersection(f"decnn_tvm.{name}" for name in COMPILER)
            assert "decnn_tvm.runtime.library" in modules


def test_a_busy_worker_refuses_and_stays_usable(three: LocalCluster, hand_net) -> None:
    x = hand_net.samples(1)[0]
    with three.deploy(hand_net.package) as session:
        with (
            Cluster.connect([three.workers[0].address], timeout=10) as other,
            pytest.raises(ClusterError, match="busy with another session"),
        ):
            other.deploy(hand_net.package)
        hand_net.check(x, session.run(x))


def test_connect_runs_on_workers_that_run_already(three: LocalCluster, hand_net) -> None:
    x = hand_net.samples(1)[0]
    addresses = [worker.address for worker in three.workers]
    with Cluster.connect(addresses, timeout=10) as cluster:
        hand_net.check(x, cluster.deploy(hand_net.package).run(x))


def test_only_exposed_methods_can_be_called(three: LocalCluster) -> None:
    worker = three.workers[0]
    for name in ("_state", "on_disconnect", "getattr"):
        with pytest.raises(ClusterError, match=r"worker 0.*cannot access"):
            worker.call(name)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", "", "a b", "lib/.hid"])
def test_uploads_stay_in_the_folder(three: LocalCluster, name: str) -> None:
    worker = three.workers[0]
    worker.call("open")
    try:
        with pytest.raises(PackageError, match="not a file name"):
            worker.call("upload", name, 0, b"x")
        worker.call("upload", "lib/a.so", 0, b"x")
        with pytest.raises(PackageError, match="out of order"):
            worker.call("upload", "lib/a.so", 7, b"x")
    finally:
        worker.call("close")


def test_a_foreign_process_cannot_start_without_a_package(three: LocalCluster) -> None:
    worker = three.workers[0]
    with pytest.raises(ClusterError, match="no session is open"):
        worker.call("status")
    with pytest.raises(ClusterError, match="no session is open"):
        worker.call("start", "{}")


def test_a_damaged_package_is_refused(three: LocalCluster, hand_net, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(hand_net.package.path, copy)
    weights = copy / "weights/group2.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PackageError, match=r"group2\.safetensors is damaged"):
        three.deploy(copy)
    with three.deploy(hand_net.package) as session:
        session.run(hand_net.samples(1)[0])


def test_shares_that_do_not_fit(three: LocalCluster, hand_net) -> None:
    with pytest.raises(PartitionError, match="expected 3 numbers"):
        three.deploy(hand_net.package, shares=[4])


def test_a_failing_stage_is_reported(three: LocalCluster, hand_net, tmp_path: Path) -> None:
    """A plan that promises another output shape than its library gives."""
    package: Package = hand_net.package
    copy = tmp_path / "copy"
    shutil.copytree(package.path, copy)
    values = tuple(
        dataclasses.replace(v, shape=(1, 6)) if v.name in ("p", "y") else v
        for v in package.plan.values
    )
    plan = dataclasses.replace(package.plan, values=values)
    manifest = package.manifest
    wrong = write_manifest(copy, plan, manifest.targets, list(manifest.files), workers=4)
    with (
        three.deploy(wrong) as session,
        pytest.raises(ClusterError, match=r"worker \d .*failed: PackageError: stage 'stage1'"),
    ):
        session.run(hand_net.samples(1)[0])


def test_a_foreign_library_is_refused(three: LocalCluster, hand_net, tmp_path: Path) -> None:
    """Libraries for another number of groups refuse the weights."""
    package: Package = hand_net.package
    generic = package.manifest.targets["generic"]
    swapped = dataclasses.replace(
        generic, libraries={1: generic.libraries[2], 2: generic.libraries[1]}
    )
    copy = tmp_path / "copy"
    shutil.copytree(package.path, copy)
    names = list(package.manifest.files)
    wrong = write_manifest(copy, package.plan, {"generic": swapped}, names, workers=4)
    with pytest.raises(PackageError, match=r"worker \d .*refuses its weights"):
        three.deploy(wrong)


def test_a_worker_that_dies_is_named(hand_net) -> None:
    samples = hand_net.samples(4)
    with LocalCluster(2, timeout=30) as cluster:
        session = cluster.deploy(hand_net.package, policy=Policy(takeover=False))
        stream = session.stream(samples * 1000, in_flight=2)
        next(stream)
        os.kill(cluster.process_ids[1], signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"worker 1 .*SIGKILL.*\n?.*wrote"):
            for _ in stream:
                pass
        with pytest.raises(ClusterError, match="the session has failed"):
            session.run(samples[0])
    assert not wait_until_gone(cluster.process_ids)


def freeze(pid: int) -> None:
    """Stop a process, and wait until its last thread has stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_until(lambda: all(" T " in (task / "stat").read_text() for task in tasks.iterdir()))


def test_a_worker_that_stops_answering_is_named(hand_net) -> None:
    with LocalCluster(2, timeout=2) as cluster:
        session = cluster.deploy(hand_net.package, policy=Policy(takeover=False))
        freeze(cluster.process_ids[0])
        with pytest.raises(ClusterError, match=r"worker 0 .*is silent"):
            session.run(hand_net.samples(1)[0])
        with pytest.raises(ClusterError, match="worker 0"):
            cluster.deploy(hand_net.package)
    assert not wait_until_gone(cluster.process_ids)


def test_nobody_at_the_address() -> None:
    with pytest.raises(ClusterError, match=r"no worker answers at 127\.0\.0\.1:1 "):
        Cluster.connect(["127.0.0.1:1"], timeout=5)
    with pytest.raises(ClusterError, match="expected host:port"):
        RemoteWorker("here", "worker", 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(hand_net, tmp_path: Path, number: signal.Signals) -> None:
    """A coordinator that is interrupted or killed mid-stream leaves no process and no file."""
    script = textwrap.dedent(
        f"""
        import time, numpy as np
        from decnn_tvm.runtime.local_cluster import LocalCluster
        x = np.ones((1, 3, 6, 6), np.float32)
        with LocalCluster(2, timeout=30) as cluster:
            with cluster.deploy({str(hand_net.package.path)!r}) as session:
                print(*cluster.process_ids, flush=True)
                end = time.monotonic() + 60  # ends by itself where the test itself was killed
                for _ in session.stream(x for _ in iter(lambda: time.monotonic() < end, False)):
                    pass
        """
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    coordinator = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert coordinator.stdout is not None
    workers = tuple(int(word) for word in coordinator.stdout.readline().split())
    assert len(workers) == 2 and all(alive(pid) for pid in workers)
    coordinator.send_signal(number)
    errors = coordinator.communicate(timeout=30)[1].decode()
    assert not wait_until_gone(workers), errors
    assert not list(tmp_path.rglob("decnn-worker-*"))
    if number == signal.SIGINT:
        assert not list(tmp_path.iterdir()), errors
