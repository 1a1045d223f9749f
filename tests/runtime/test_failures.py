# SPDX-License-Identifier: Apache-2.0
"""What goes wrong at the edges gives one clear error, ends in time, and leaves the rest at work."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.manifest import MANIFEST
from decnn_tvm.package import versions
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.transfers import HOST


@pytest.fixture(scope="module")
def two() -> Iterator[LocalCluster]:
    with LocalCluster(2, timeout=30) as cluster:
        yield cluster


def test_one_session_at_a_time(two: LocalCluster, hand_net) -> None:
    x = hand_net.samples(1)[0]
    with two.deploy(hand_net.package) as session:
        with pytest.raises(ClusterError, match="'hand' is open on these workers"):
            two.deploy(hand_net.package)
        hand_net.check(x, session.run(x))
    with two.deploy(hand_net.package, shares=[1, 3]) as session:
        hand_net.check(x, session.run(x))


def test_an_error_of_the_callers_iterable_leaves_the_session_usable(
    two: LocalCluster, hand_net
) -> None:
    samples = hand_net.samples(4)

    def broken(error: BaseException):
        yield from samples[:3]
        raise error

    with two.deploy(hand_net.package) as session:
        for error in (RuntimeError("camera"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                for x, y in zip(samples, session.stream(broken(error), in_flight=2), strict=False):
                    hand_net.check(x, y)
        hand_net.check(samples[3], session.run(samples[3]))


def test_a_stream_that_is_left_half_way_does_not_disturb(two: LocalCluster, hand_net) -> None:
    samples = hand_net.samples(6)
    with two.deploy(hand_net.package) as session:
        stream = session.stream(samples, in_flight=4)
        hand_net.check(samples[0], next(stream))
        hand_net.check(samples[5], session.run(samples[5]))
        for x, y in zip(samples[1:], stream, strict=True):
            hand_net.check(x, y)


def test_threads_take_turns(two: LocalCluster, hand_net) -> None:
    samples = hand_net.samples(4)
    failures: list[BaseException] = []
    with two.deploy(hand_net.package) as session:

        def work(x) -> None:
            try:
                for y in session.stream([x] * 10, in_flight=2):
                    hand_net.check(x, y)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(x,)) for x in samples]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert not failures


@pytest.mark.parametrize("answer", [b"", b"\x00\x00\x10\x00\x00half", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_something_else_at_the_address(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ClusterError, match=r"worker 0 at 127\.0\.0\.1"):
            Cluster.connect([f"127.0.0.1:{server.getsockname()[1]}"], timeout=1)
        thread.join(10)
        assert not thread.is_alive()


def request(target: str, manifest: bytes) -> str:
    addresses = {"0": "127.0.0.1:1", str(HOST): "127.0.0.1:1"}
    return json.dumps(
        {
            "rank": 0,
            "target": target,
            "assignment": [[0, 1, 2, 3]],
            "addresses": addresses,
            "cluster": bytes(16).hex(),
            "package": hashlib.sha256(manifest).hexdigest(),
            "epoch": 0,
        }
    )


def start_with(worker: RemoteWorker, manifest: bytes, target: str = "generic") -> None:
    """Send a manifest as a coordinator without checks of its own would."""
    worker.call("open")
    try:
        worker.call("upload", MANIFEST, 0, manifest)
        worker.call("start", request(target, manifest))
    finally:
        worker.call("close")


def test_a_worker_checks_the_package_itself(two: LocalCluster, hand_net) -> None:
    worker = two.workers[0]
    text = (hand_net.package.path / MANIFEST).read_text()
    data = json.loads(text)
    with pytest.raises(PackageError, match="not for 'pi'"):
        start_with(worker, text.encode(), "pi")
    tvm_version = versions()["apache-tvm"]
    with pytest.raises(PackageError, match=rf"apache-tvm 0\.1 \(worker: {tvm_version}\)"):
        old = data | {"versions": versions() | {"apache-tvm": "0.1"}}
        start_with(worker, json.dumps(old).encode())
    with pytest.raises(PackageError, match="needs a riscv64 machine"):
        foreign = {"generic": data["targets"]["generic"] | {"machine": "riscv64"}}
        start_with(worker, json.dumps(data | {"targets": foreign}).encode())
    with pytest.raises(PackageError, match="is missing"):
        start_with(worker, text.encode())
    with pytest.raises(PackageError, match="not a decnn-tvm package"):
        start_with(worker, b"{}")


def test_threads_must_be_positive() -> None:
    with pytest.raises(ClusterError, match="threads=0: expected at least 1"):
        LocalCluster(1, threads=0)


def test_workers_start_anywhere(hand_net, tmp_path: Path) -> None:
    """A script from standard input, in a folder whose files have the names of modules."""
    for name in ("numpy.py", "secrets.py", "zmq.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    x = hand_net.samples(1)[0]
    np.save(tmp_path / "x.npy", x)
    script = f"""
import sys
sys.path = [path for path in sys.path if path not in ("", {str(tmp_path)!r})]
import numpy as np
from decnn_tvm.runtime.local_cluster import LocalCluster
with LocalCluster(2) as cluster, cluster.deploy({str(hand_net.package.path)!r}) as session:
    np.save("y.npy", session.run(np.load("x.npy")))
"""
    done = subprocess.run(
        [sys.executable, "-"], input=script.encode(), cwd=tmp_path, capture_output=True, timeout=60
    )
    assert not done.returncode, done.stderr.decode()
    hand_net.check(x, np.load(tmp_path / "y.npy"))
