# SPDX-License-Identifier: Apache-2.0
"""A worker with keys of its own, turned against the cluster, can be itself and nobody else."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from decnn_tvm.errors import ClusterError
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.pins import Pins
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.wire import ERROR, HEARTBEAT, Header, Message, encode
from decnn_tvm.testing.boards import wait_until
from decnn_tvm.transfers import HOST

PLACE = "192.168.0.12:7000"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("turned") / "keys"
    make_keys(path, ["pi1", "pi2"])
    return path


@contextlib.contextmanager
def answering(folder: Path, port: int = 0) -> Iterator[int]:
    """Answer the TLS handshakes at a port of loopback with the certificate in a folder."""
    context = Credentials.load(folder).server_context()
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with context.wrap_socket(sock, server_side=True) as known:
                        known.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def test_one_worker_at_the_address_of_another(keys: Path) -> None:
    """As where pi2 is lost, and pi1 takes its address before the coordinator comes back."""
    credentials = Credentials.load(keys / "coordinator")
    with answering(keys / "pi2") as port:
        place = ("127.0.0.1", port)
        for _ in range(2):
            with socket.create_connection(place, timeout=10) as plain:
                credentials.secure(plain, f"127.0.0.1:{port}").close()
    with answering(keys / "pi1", port):
        with pytest.raises(ClusterError, match=r"'pi1' answers at 127.*'pi2' did"):
            RemoteWorker(f"127.0.0.1:{port}", "worker", 10, credentials)


def certificates(keys: Path) -> dict[str, bytes]:
    trusted = (keys / "coordinator/trusted").glob("*.pem")
    return {path.stem: ssl.PEM_cert_to_DER_cert(path.read_text()) for path in trusted}


def test_addresses_are_remembered_beyond_loopback(keys: Path, tmp_path: Path) -> None:
    shutil.copytree(keys, tmp_path / "keys")
    folder, shown = tmp_path / "keys/coordinator", certificates(keys)

    def pins() -> Pins:
        return Credentials.load(folder).pins

    pins().check("127.0.0.1:7000", shown["pi1"])
    assert not (folder / "known.json").exists()
    pins().check(PLACE, shown["pi2"])
    pins().check("192.168.0.11:7000", shown["pi1"])
    known = json.loads((folder / "known.json").read_text())
    assert known == {PLACE: "pi2", "192.168.0.11:7000": "pi1"}
    assert stat.S_IMODE((folder / "known.json").stat().st_mode) == 0o600
    with pytest.raises(ClusterError, match=rf"'pi1' answers at {PLACE}.*take .*known\.json"):
        pins().check(PLACE, shown["pi1"])
    pins().check(PLACE, shown["pi2"])


def test_new_keys_under_the_same_name(keys: Path, tmp_path: Path) -> None:
    """Who was shut out is forgotten; who got new keys keeps the place of its name."""
    shutil.copytree(keys, tmp_path / "keys")
    folder, old = tmp_path / "keys/coordinator", certificates(keys)
    Credentials.load(folder).pins.check(PLACE, old["pi2"])
    shutil.rmtree(tmp_path / "keys/pi2")
    (folder / "trusted/pi2.pem").unlink()
    make_keys(tmp_path / "keys", ["pi2"])
    Credentials.load(folder).pins.check(PLACE, certificates(tmp_path / "keys")["pi2"])
    (folder / "trusted/pi2.pem").unlink()
    Credentials.load(folder).pins.check(PLACE, old["pi1"])
    assert json.loads((folder / "known.json").read_text()) == {PLACE: "pi1"}


def test_a_memory_that_is_damaged_is_no_licence(keys: Path, tmp_path: Path) -> None:
    shutil.copytree(keys, tmp_path / "keys")
    folder = tmp_path / "keys/coordinator"
    (folder / "known.json").write_text("{")
    with pytest.raises(ClusterError, match=r"known\.json: can't be read"):
        Credentials.load(folder).pins.check(PLACE, certificates(keys)["pi1"])


@pytest.fixture
def three() -> Iterator[list[ZmqTransport]]:
    """Return three ends that have keys: 0 and 1 are about to send to 2."""
    with contextlib.ExitStack() as ends:
        planes = [ZmqTransport(encrypt=True) for _ in range(3)]
        for plane in planes:
            ends.callback(plane.close)
        for plane in planes[:2]:
            plane.connect({2: f"127.0.0.1:{planes[2].locator}"})
        planes[2].connect(peers(planes, 0, 1))
        yield planes


def peers(planes: list[ZmqTransport], *ranks: int) -> dict[int, str]:
    return {rank: f"127.0.0.1:{planes[rank].locator}" for rank in ranks}


def send(plane: ZmqTransport, source: int, payload: bytes, movement: int = 0) -> None:
    """Send to rank 2 in the name of `source`."""
    header = Header(
        cluster=bytes(16), epoch=0, sample=0, movement=movement, source=source, target=2
    )
    plane.send(2, encode(header, [payload]))


def received(plane: ZmqTransport) -> tuple[int, bytes]:
    message = plane.receive(10.0)
    assert isinstance(message, Message)
    return message.header.source, b"".join(message.payload)


def test_nobody_speaks_in_the_name_of_another(three: list[ZmqTransport]) -> None:
    send(three[0], 0, b"from 0")
    assert received(three[2]) == (0, b"from 0")
    for source in (0, HOST, 2, 999):
        for movement in (0, ERROR, HEARTBEAT):
            send(three[1], source, b"forged", movement)
    send(three[1], 1, b"from 1")
    assert received(three[2]) == (1, b"from 1")
    assert three[2].traffic.refused == 12
    assert set(three[2].traffic.received) == {0, 1}


def test_who_was_given_up_is_heard_no_more(three: list[ZmqTransport]) -> None:
    """Neither on the connection that it has, nor on a new one; taken in again, it is."""
    send(three[1], 1, b"first")
    assert received(three[2]) == (1, b"first")
    three[2].connect(peers(three, 0))
    send(three[1], 1, b"late")
    wait_until(lambda: three[2].traffic.refused == 1)
    three[1].connect({})
    three[1].connect(peers(three, 2))
    send(three[1], 1, b"again")
    assert three[2].receive(0.5) is None
    three[2].connect(peers(three, 0, 1))
    assert received(three[2]) == (1, b"again")


def test_an_error_from_nowhere_stops_no_session(hand_net) -> None:
    samples = hand_net.samples(2)
    with LocalCluster(2, timeout=20) as cluster, cluster.deploy(hand_net.package) as session:
        hand_net.check(samples[0], session.run(samples[0]))
        epochs = session._devices._epochs  # type: ignore[attr-defined]
        header = Header(
            cluster=epochs.cluster, epoch=0, sample=0, movement=ERROR, source=999, target=HOST
        )
        damaged = epochs.watch.damaged
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.connect(f"tcp://127.0.0.1:{epochs._transport.port}")
            push.send_multipart(encode(header, [b"PackageError: forged"]))
            wait_until(lambda: epochs.watch.damaged > damaged)
        hand_net.check(samples[1], session.run(samples[1]))
