# SPDX-License-Identifier: Apache-2.0
"""Somebody compiles into the folder of a package that a session runs: no result is of two networks.

The files are those of the same network with other weights, all with the right hashes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pytest

from decnn_tvm.errors import PackageError
from decnn_tvm.package import MANIFEST, Package, write_manifest, write_weights
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from tests.runtime.conftest import HandNet, make_plan, make_weights, slices
from tests.runtime.test_failures import request
from tests.runtime.test_takeover import STAY_AWAY, kill, stream_with, until

CHANGED = r"weights/group\d\.safetensors is another file now; .* deploy the package again"
NO_COPIES = Policy(rejoin=False, replicas=0)


@pytest.fixture
def own_net(hand_net, tmp_path: Path) -> HandNet:
    """The network in a folder of its own."""
    shutil.copytree(hand_net.package.path, tmp_path / "package")
    return HandNet(Package(tmp_path / "package"), hand_net.weights)


def retrain(package: Package) -> None:
    """Put the same network with other weights in the package's place."""
    weights = {name: -2 * value for name, value in make_weights().items()}
    names = write_weights(package.path, make_plan(), slices(weights))
    targets = package.manifest.targets
    names += targets["generic"].libraries.values()
    write_manifest(package.path, make_plan(), targets, names, workers=4)


def test_who_comes_back_does_not_get_other_weights(own_net: HandNet, hand_net, caplog) -> None:
    caplog.set_level(logging.INFO)
    with LocalCluster(3, timeout=30) as cluster, cluster.deploy(own_net.package) as session:
        retrain(own_net.package)
        stream_with(session, own_net, lambda: kill(cluster, 0))
        until(session, own_net, lambda: "is another file now" in caplog.text)
        assert session.assignment[0] == ()
        shutil.copytree(hand_net.package.path, own_net.package.path, dirs_exist_ok=True)
        until(session, own_net, lambda: all(session.assignment))


def test_a_new_worker_is_refused_and_the_session_goes_on(own_net: HandNet) -> None:
    with LocalCluster(1, timeout=30) as others, LocalCluster(2, timeout=30) as cluster:
        with cluster.deploy(own_net.package, policy=STAY_AWAY) as session:
            retrain(own_net.package)
            for _ in range(2):  # its session was ended: it is free to be asked again
                with pytest.raises(PackageError, match=CHANGED):
                    session.add_worker(others.workers[0].address)
            shutil.rmtree(own_net.package.path)
            with pytest.raises(PackageError, match=r"can't be read \(.*No such file"):
                session.add_worker(others.workers[0].address)
            stream_with(session, own_net, lambda: None)
            assert session.assignment == ((0, 1), (2, 3))


def test_shares_stay_where_their_weights_are(own_net: HandNet, caplog) -> None:
    with LocalCluster(2, timeout=30) as cluster:
        with cluster.deploy(own_net.package, policy=NO_COPIES) as session:
            retrain(own_net.package)

            def relieve() -> None:
                roster = session._devices._roster  # type: ignore[attr-defined]
                roster.seconds, roster.changed = {0: 9.0, 1: 1.0}, True
                session._flight.renew("a device stays slow")

            stream_with(session, own_net, relieve)
            assert session.assignment == ((0, 1), (2, 3))
            assert "the channel groups stay where they are" in caplog.text


def test_weights_that_nobody_has_end_the_session(own_net: HandNet) -> None:
    with LocalCluster(2, timeout=30, restart=False) as cluster:
        with cluster.deploy(own_net.package, policy=NO_COPIES) as session:
            retrain(own_net.package)
            kill(cluster, 1)
            with pytest.raises(PackageError, match=CHANGED):
                session.run(own_net.samples(1)[0])


def test_a_worker_starts_the_package_that_was_meant(hand_net) -> None:
    manifest = (hand_net.package.path / MANIFEST).read_bytes()
    data = json.loads(manifest)
    other = json.dumps(data | {"workers": data["workers"] + 1}).encode()
    with LocalCluster(1, timeout=30) as cluster:
        worker = cluster.workers[0]
        worker.call("open")
        for name in hand_net.package.files_for("generic", (0, 1, 2, 3)):
            worker.call("upload", name, 0, (hand_net.package.path / name).read_bytes())
        worker.call("upload", MANIFEST, 0, other)
        digests = [hashlib.sha256(text).hexdigest()[:12] for text in (other, manifest)]
        with pytest.raises(PackageError, match=rf"{digests[0]}, the package .* has {digests[1]}"):
            worker.call("start", request("generic", manifest))
        worker.call("upload", MANIFEST, 0, manifest)
        worker.call("start", request("generic", manifest))


def test_pieces(own_net: HandNet) -> None:
    package = own_net.package
    (package.path / MANIFEST).write_text("{}")
    for name in (MANIFEST, *package.manifest.files):
        pieces = list(package.pieces(name, 1000))
        assert {len(piece) for piece in pieces[:-1]} <= {1000} and 0 < len(pieces[-1]) <= 1000
        digest = hashlib.sha256(b"".join(pieces)).hexdigest()
        assert digest == (package.manifest.files | {MANIFEST: package.digest})[name]
