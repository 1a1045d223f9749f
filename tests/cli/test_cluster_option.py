# SPDX-License-Identifier: Apache-2.0
"""Commands that take a cluster file in place of addresses, keys, targets and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.keys import make_keys
from decnn_tvm.package import Package

Command = Callable[..., Any]
Start = Callable[..., Any]


def test_a_cluster_with_keys(command: Command, start: Start, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(keys, ["pi-1", "pi-2"])
    started = [start("worker", "--keys", keys / name) for name in ("pi-1", "pi-2")]
    ports = [json.loads(worker.stdout.readline())["port"] for worker in started]
    workers = tuple(
        ClusterWorker(name=f"pi-{rank}", address=f"127.0.0.1:{port}")
        for rank, port in enumerate(ports, 1)
    )
    path = tmp_path / "cluster.toml"
    ClusterFile(workers=workers, credentials=keys).write(path)
    done = command("run", folder / "grouped.pkg", "--random", 2, "--json", "--cluster", path)
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["samples"]) == 2
    done = command("status", "--cluster", path, "--once", "--interval", 0.1)
    assert done.status == 0 and done.out.count("idle") == 2, done


def test_a_package_for_the_cluster(
    command: Command, start: Start, folder: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "cluster.toml", tmp_path / "out.pkg"
    started = [start("worker"), start("worker")]
    places = [json.loads(worker.stdout.readline()) for worker in started]
    here, there = (f"127.0.0.1:{place['port']}" for place in places)
    workers = (
        ClusterWorker(name="here", address=here),
        ClusterWorker(name="pi", address=there, target="rpi4"),
    )
    ClusterFile(workers=workers).write(path)
    arguments = ("-o", out, "--cluster", path, "--no-all-shares")
    done = command("compile", folder / "grouped.onnx", *arguments)
    assert done.status == 0, done.err
    manifest = Package(out).manifest
    assert manifest.workers == 2 and list(manifest.targets) == ["host", "rpi4"]
    # Each worker gets the code that the file says, and this one can't run it.
    done = command("run", out, "--random", 1, "--cluster", path)
    assert done.status == 2 and "target 'rpi4' needs a aarch64 machine" in done.err, done
    assert f"worker 1 at {there}" in done.err


def test_bad_cluster_files(command: Command, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    ClusterFile(
        workers=(ClusterWorker(name="pi", address="127.0.0.1:1"),), tracker="127.0.0.1:1"
    ).write(path)
    package, model = folder / "grouped.pkg", folder / "grouped.onnx"
    for arguments, status, word in (
        (("run", package, "--cluster", tmp_path / "none.toml"), 2, "can't be read"),
        (("run", package, "--cluster", path, "--workers", 2), 2, "not allowed with"),
        (("run", package, "--cluster", path), 1, "no worker answers at 127.0.0.1:1"),
        (("status", "--once"), 2, "--connect --cluster is required"),
        (("tune", model, "--records", tmp_path / "r", "--cluster", path), 2, "tuning_key"),
    ):
        done = command(*arguments)
        assert done.status == status and word in done.err, done
        assert len(done.err.splitlines()) == 1, done.err
