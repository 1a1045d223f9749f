# SPDX-License-Identifier: Apache-2.0
"""What `compile --plan auto` found is what the package is then run by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decnn_tvm.cluster_file import ClusterFile, ClusterLink, ClusterWorker
from decnn_tvm.package import Package
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from tests.profiles import made_profile

Command = Callable[..., Any]
Start = Callable[..., Any]
CLOCK = 0.02e9
"""Slow enough that this small network is work."""


def write_cluster(path: Path, addresses: Mapping[str, str]) -> None:
    """Write a cluster file of workers by name, on links of 10 Gb/s."""
    workers = tuple(ClusterWorker(name=name, address=at) for name, at in addresses.items())
    ClusterFile(workers=workers, links=(ClusterLink(bandwidth=1e10, latency=1e-5),)).write(path)


def compile_by_plan(
    command: Command, folder: Path, path: Path, clocks: Sequence[float], *more: object
) -> Any:
    """Plan for boards of these clocks, which are not there, and compile."""
    names = [f"board-{i}" for i in range(len(clocks))]
    addresses = {name: f"192.0.2.{i + 1}:9100" for i, name in enumerate(names)}
    cluster, profile = path / "cluster.toml", path / "profile.json"
    write_cluster(cluster, addresses)
    made_profile(dict(zip(names, clocks, strict=True))).write(profile)
    return command(
        *("compile", folder / "dense.onnx", "-o", path / "out.pkg", "--plan", "auto"),
        *("--cluster", cluster, "--profile", profile, *more),
    )


@pytest.mark.parametrize(
    ("clocks", "goal", "expected"),
    [
        ((CLOCK / 2, CLOCK, CLOCK, CLOCK), "throughput", (1, 2, 2, 2)),
        pytest.param((CLOCK, CLOCK / 3), "latency", None, marks=pytest.mark.slow),
    ],
)
def test_an_uneven_plan_is_dealt_as_planned(
    command: Command,
    folder: Path,
    tmp_path: Path,
    clocks: tuple[float, ...],
    goal: str,
    expected: tuple[int, ...] | None,
) -> None:
    done = compile_by_plan(command, folder, tmp_path, clocks, "--for", goal)
    assert done.status == 0, done.err
    package = Package(tmp_path / "out.pkg")
    shares = package.manifest.shares
    assert shares is not None and len({*shares}) > 1
    assert expected in (None, shares)
    assert package.manifest.worker_names == tuple(f"board-{i}" for i in range(len(clocks)))
    dealt = ", ".join(f"board-{i} {share}" for i, share in enumerate(shares))
    assert f"shares: {dealt}\n" in done.out
    samples = random_inputs((1, 3, 64, 64), 3, seed=3)
    files = [tmp_path / f"{index}.npy" for index in range(3)]
    for file, sample in zip(files, samples, strict=True):
        np.save(file, sample)
    out = tmp_path / "y.npz"
    done = command("run", package.path, "--input", *files, "--output", out, "--json")
    assert done.status == 0, done.err
    counts = [len(device["groups"]) for device in json.loads(done.out)["devices"]]
    assert [count * sum(shares) for count in counts] == [sum(counts) * share for share in shares]
    with np.load(out) as outputs:
        ours = list(outputs["output"])
    assert_logits_match(ours, reference_outputs(folder / "dense.onnx", samples))


def test_a_plan_for_some_of_the_workers_is_run_by_these(
    command: Command, start: Start, folder: Path, tmp_path: Path
) -> None:
    places = [json.loads(start("worker").stdout.readline())["port"] for _ in range(2)]
    # Nobody listens at the first one's address, which hardly anything gets to.
    workers = (
        ClusterWorker(name="far", address="127.0.0.1:1"),
        *(ClusterWorker(name=f"near-{p}", address=f"127.0.0.1:{p}") for p in places),
    )
    links = (
        ClusterLink(between=("coordinator", "far"), bandwidth=1e3, latency=1.0),
        ClusterLink(bandwidth=1e10, latency=1e-5),
    )
    cluster = tmp_path / "cluster.toml"
    ClusterFile(workers=workers, links=links).write(cluster)
    clocks = {w.name: CLOCK if w.name != "far" else 0.95 * CLOCK for w in workers}
    profile = tmp_path / "profile.json"
    made_profile(clocks, without=(("coordinator", "far"),)).write(profile)
    out = tmp_path / "out.pkg"
    done = command(
        *("compile", folder / "dense.onnx", "-o", out, "--plan", "auto"),
        *("--cluster", cluster, "--profile", profile),
    )
    assert done.status == 0, done.err
    assert Package(out).manifest.worker_names == tuple(w.name for w in workers[1:])
    done = command("run", out, "--cluster", cluster, "--random", 2, "--json")
    assert done.status == 0, done.err
    addresses = [device["name"] for device in json.loads(done.out)["devices"]]
    assert all(str(port) in name for port, name in zip(places, addresses, strict=True))
    # Shares of one's own are for the workers of the file, by rank.
    done = command("run", out, "--cluster", cluster, "--random", 2, "--shares", "1,1")
    assert done.status == 2 and "at most 2 workers" in done.err
    other = tmp_path / "other.toml"
    write_cluster(other, {"a": "127.0.0.1:1", "b": "127.0.0.1:2"})
    done = command("run", out, "--cluster", other, "--random", 2)
    assert done.status == 2 and "the package was planned for the workers" in done.err
