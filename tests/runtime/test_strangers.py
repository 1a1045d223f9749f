# SPDX-License-Identifier: Apache-2.0
"""A cluster with keys: it computes, and a peer without its keys gets nothing on either plane."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.curve import split_address
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.wire import Header, Message, encode
from decnn_tvm.testing.tap import tap


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the keys of two clusters, ``own`` and ``other``."""
    path = tmp_path_factory.mktemp("keys")
    make_keys(path / "own", ["pi1", "pi2"])
    make_keys(path / "other")
    return path


@pytest.fixture(scope="module")
def two(keys: Path) -> Iterator[LocalCluster]:
    with LocalCluster(2, timeout=30, keys=keys / "own") as cluster:
        yield cluster


def own(keys: Path) -> Path:
    return keys / "own/coordinator"


def test_outputs_equal_the_reference(two: LocalCluster, hand_net) -> None:
    samples = hand_net.samples(6)
    with two.deploy(hand_net.package) as session:
        for x, y in zip(samples, session.stream(samples, in_flight=3), strict=True):
            hand_net.check(x, y)


def test_a_takeover_and_a_return_with_keys(keys: Path, hand_net) -> None:
    """Survivors and a worker that comes back get each other's new keys."""
    samples = hand_net.samples(4)
    with LocalCluster(3, timeout=30, keys=keys / "own") as cluster:
        with cluster.deploy(hand_net.package) as session:
            stream = session.stream((samples[i % 4] for i in range(400)), in_flight=4)
            for index, y in enumerate(stream):
                if index == 20:
                    os.kill(cluster.process_ids[1], signal.SIGKILL)
                hand_net.check(samples[index % 4], y)
            assert index == 399


def test_connect_with_keys(two: LocalCluster, keys: Path, hand_net) -> None:
    x = hand_net.samples(1)[0]
    addresses = [worker.address for worker in two.workers]
    with Cluster.connect(addresses, timeout=10, keys=own(keys)) as cluster:
        hand_net.check(x, cluster.deploy(hand_net.package).run(x))


def test_strangers_cannot_connect(two: LocalCluster, keys: Path) -> None:
    address = two.workers[0].address
    for wrong in (None, keys / "other/coordinator", keys / "own/pi2", keys / "other/worker"):
        with pytest.raises(ClusterError, match=r"worker 0 at 127\.0\.0\.1"):
            Cluster.connect([address], timeout=10, keys=wrong)
    with Cluster.connect([address], timeout=10, keys=own(keys)):
        pass


def test_a_client_that_accepts_any_server_is_still_a_stranger(
    two: LocalCluster, keys: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    other.load_cert_chain(keys / "other/coordinator/identity.pem")
    place = (two.workers[0].host, int(two.workers[0].address.rpartition(":")[2]))
    for stranger in (context, other):
        with (
            socket.create_connection(place, timeout=10) as plain,
            pytest.raises(ssl.SSLError, match="alert"),
            stranger.wrap_socket(plain) as wrapped,
        ):
            wrapped.recv(1)


def test_a_worker_of_another_cluster_is_not_used(keys: Path) -> None:
    with LocalCluster(1, timeout=30, keys=keys / "other") as others:
        address = others.workers[0].address
        with pytest.raises(ClusterError, match="no TLS connection"):
            Cluster.connect([address], timeout=10, keys=own(keys))


def test_a_worker_that_is_no_longer_trusted(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path, ["pi1"])
    with LocalCluster(1, timeout=30, keys=tmp_path) as cluster:
        make_keys(tmp_path, ["pi2"])
        (tmp_path / "coordinator/trusted/pi1.pem").unlink()
        with pytest.raises(ClusterError, match="no TLS connection"):
            Cluster.connect([cluster.workers[0].address], timeout=10, keys=tmp_path / "coordinator")


def stranger(context: zmq.Context, address: str, server_key: bytes | None) -> zmq.Socket:
    """Return a socket of a peer without keys, or with keys of its own."""
    push = context.socket(zmq.PUSH)
    push.setsockopt(zmq.LINGER, 0)
    if server_key is not None:
        push.curve_publickey, push.curve_secretkey = zmq.curve_keypair()
        push.curve_serverkey = server_key
    push.connect(address)
    return push


def test_strangers_send_nothing_on_the_data_plane() -> None:
    first, second = ZmqTransport(encrypt=True), ZmqTransport(encrypt=True)
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    context = zmq.Context()
    with contextlib.ExitStack() as ends:
        ends.callback(context.term)
        ends.callback(first.close)
        ends.callback(second.close)
        address = f"tcp://127.0.0.1:{second.port}"
        known = split_address(f"127.0.0.1:{second.locator}")[1]
        for key in (None, zmq.curve_keypair()[0], known):
            push = ends.enter_context(stranger(context, address, key))
            push.send_multipart(encode(header, [b"stranger"]))
        first.connect({1: f"127.0.0.1:{second.locator}"})
        second.connect({0: f"127.0.0.1:{first.locator}"})
        for _ in range(3):
            first.send(1, encode(header, [b"friend"]))
        for _ in range(3):
            message = second.receive(10.0)
            assert isinstance(message, Message) and message.payload == (b"friend",)
        assert second.receive(0.5) is None
        assert second.traffic.received == {0: 3 * (64 + 6)} and not second.traffic.refused


def test_a_late_admission_is_enough() -> None:
    """A peer that is told of this end first waits until this end is told of it."""
    first, second = ZmqTransport(encrypt=True), ZmqTransport(encrypt=True)
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    try:
        first.connect({1: f"127.0.0.1:{second.locator}"})
        first.send(1, encode(header, [b"early"]))
        assert second.receive(0.3) is None
        second.connect({0: f"127.0.0.1:{first.locator}"})
        message = second.receive(10.0)
        assert isinstance(message, Message) and message.payload == (b"early",)
    finally:
        first.close()
        second.close()


def test_both_ends_need_keys() -> None:
    with (
        contextlib.closing(ZmqTransport()) as bare,
        contextlib.closing(ZmqTransport(encrypt=True)) as e,
    ):
        with pytest.raises(ClusterError, match=r"no key there, and one here"):
            e.connect({1: f"127.0.0.1:{bare.locator}"})
        with pytest.raises(ClusterError, match=r"a key there, and none here"):
            bare.connect({1: f"127.0.0.1:{e.locator}"})
        with pytest.raises(ClusterError, match=r"its key is 'zz'"):
            e.connect({1: "127.0.0.1:1#zz"})


def test_what_is_on_the_wire_is_encrypted(keys: Path) -> None:
    """A wire tap between two transports sees the payload only where there are no keys."""
    payload = b"a picture that nobody else may see" * 40
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    for encrypt in (False, True):
        first, second = ZmqTransport(encrypt=encrypt), ZmqTransport(encrypt=encrypt)
        with tap(second.port) as (port, seen), contextlib.ExitStack() as ends:
            ends.callback(first.close)
            ends.callback(second.close)
            place = second.locator.replace(str(second.port), str(port), 1)
            second.connect({0: f"127.0.0.1:{first.locator}"})
            first.connect({1: f"127.0.0.1:{place}"})
            first.send(1, encode(header, [payload]))
            message = second.receive(10.0)
            assert isinstance(message, Message) and message.payload == (payload,)
            assert (payload in bytes(seen)) is not encrypt


def test_what_was_recorded_is_of_no_use() -> None:
    """The bytes of a connection, sent again to the same receiver, bring no message."""
    payload = b"open the gate" * 40
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    for encrypt in (False, True):
        first, second = ZmqTransport(encrypt=encrypt), ZmqTransport(encrypt=encrypt)
        with contextlib.closing(second):
            with tap(second.port) as (port, seen), contextlib.closing(first):
                place = second.locator.replace(str(second.port), str(port), 1)
                second.connect({0: f"127.0.0.1:{first.locator}"})
                first.connect({1: f"127.0.0.1:{place}"})
                first.send(1, encode(header, [payload]))
                assert isinstance(second.receive(10.0), Message)
            with socket.create_connection(("127.0.0.1", second.port), timeout=10) as again:
                again.sendall(seen[:64])  # the greeting, which wants a whole answer first
                answer = b""
                while len(answer) < 64:
                    answer += again.recv(64)
                again.sendall(seen[64:])
                got = second.receive(1.0)
            assert isinstance(got, Message) is not encrypt


def test_other_addresses_take_keys(keys: Path) -> None:
    for host in ("192.0.2.1", "board.example"):
        with pytest.raises(InputError, match=f"host '{host}': other machines may reach it"):
            Cluster.connect([f"{host}:7000"], timeout=1)
    with pytest.raises(InputError, match="one interface, not all of them"):
        Cluster.connect(["0.0.0.0:7000"], timeout=1, insecure=True)


def test_a_cluster_listens_on_loopback_without_keys() -> None:
    with pytest.raises(InputError, match=r"host '0\.0\.0\.0': other machines may reach it"):
        Cluster([], host="0.0.0.0", timeout=1)


@pytest.mark.parametrize("encrypt", [False, True])
def test_the_largest_message_passes_and_no_larger_one(encrypt: bool) -> None:
    first = ZmqTransport(encrypt=encrypt)
    second = ZmqTransport(encrypt=encrypt, max_payload=1 << 16)
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    with contextlib.closing(first), contextlib.closing(second):
        first.connect({1: f"127.0.0.1:{second.locator}"})
        second.connect({0: f"127.0.0.1:{first.locator}"})
        first.send(1, encode(header, [bytes(1 << 16)]))
        message = second.receive(10.0)
        assert isinstance(message, Message) and message.nbytes == 1 << 16
        first.send(1, encode(header, [bytes((1 << 16) + 1024)]))
        assert second.receive(0.5) is None
        assert second.traffic.received == {0: 64 + (1 << 16)}


def test_insecure_warns_and_names_the_interface(caplog: pytest.LogCaptureFixture) -> None:
    from decnn_tvm.runtime.exposure import accept_exposure

    accept_exposure("192.0.2.1", keys=False, insecure=True)
    assert "INSECURE: anyone who reaches 192.0.2.1" in caplog.text
    caplog.clear()
    for host, keyed in (("127.0.0.9", False), ("localhost", False), ("0.0.0.0", True)):
        accept_exposure(host, keys=keyed, insecure=False)
    assert not caplog.text


def test_a_worker_on_all_interfaces_takes_keys(keys: Path) -> None:
    """The library enforces it, not the command line alone."""
    script = """
import sys, threading
from pathlib import Path
from decnn_tvm.errors import InputError
from decnn_tvm.runtime.worker import serve
stopping = threading.Event()
stopping.set()
try:
    serve("0.0.0.0", 0, Path("."), stopping, keys=sys.argv[1] if sys.argv[1:] else None)
except InputError as error:
    sys.exit(f"refused: {error}")
"""
    bare, keyed = (
        subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
        )
        for arguments in ((), (str(keys / "own/pi1"),))
    )
    assert bare.returncode == 1 and "refused: host '0.0.0.0'" in bare.stderr and not bare.stdout
    assert json.loads(keyed.stdout)["port"], keyed.stderr


def test_a_worker_needs_nothing_but_ssl_for_its_keys(two: LocalCluster) -> None:
    modules = set(two.workers[0].call("modules"))
    assert "ssl" in modules and "cryptography" not in modules
    assert Credentials.__module__ in modules
