# SPDX-License-Identifier: Apache-2.0
"""A full-size ResNet-18 on emulated boards: the same answers as on x86, also where one is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import decnn_tvm
from decnn_tvm.package import Package
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs

SHAPE = (1, 3, 224, 224)
DECOUPLED = "decoupled.onnx"
TOLERANCE = 1e-4
PATIENT = Policy(beat=0.5, silence=20.0, orphan=300.0)
"""An emulated board that computes may not come to beat for a while."""
TIMEOUT = 300.0

Samples = list[npt.NDArray[Any]]
Build = Callable[..., Package]


@pytest.fixture(scope="module")
def package(build: Build) -> Package:
    return build("host", "rpi4")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return random_inputs(SHAPE, 6, seed=5)


@pytest.fixture(scope="module")
def on_x86(package: Package, samples: Samples) -> Samples:
    with decnn_tvm.LocalCluster(4) as cluster, cluster.deploy(package) as session:
        return [session.run(sample) for sample in samples]


def test_four_boards_answer_as_x86_does(
    boards: Any, folder: Path, package: Package, samples: Samples, on_x86: Samples, figures: Any
) -> None:
    addresses = [board.address for board in boards.start(4)]
    with decnn_tvm.connect(addresses, timeout=TIMEOUT) as cluster:
        machines = [worker.machine() for worker in cluster.workers]
        assert {machine.machine for machine in machines} == {"aarch64"}
        with cluster.deploy(package, policy=PATIENT) as session:
            start = time.monotonic()
            ours = list(session.stream(samples[:3], in_flight=2))
            seconds = time.monotonic() - start
            devices = session.stats()
    assert_logits_match(ours, on_x86[:3], TOLERANCE)
    reference = reference_outputs(onnx.load(folder / DECOUPLED), samples[:3])
    assert_logits_match(ours, reference, TOLERANCE)
    largest = max(float(np.abs(r).max()) for r in on_x86)
    error = max(float(np.abs(a - b).max()) for a, b in zip(ours, on_x86, strict=False)) / largest
    figures["largest difference from x86, of the largest output"] = float(f"{error:.2g}")
    figures["seconds per image on 4 emulated boards"] = round(seconds / 3, 2)
    figures["MB above idle at most, each of 4 boards"] = round(
        max(device.peak_bytes for device in devices) / 1e6, 1
    )


def test_a_killed_board_is_replaced(
    boards: Any, package: Package, samples: Samples, on_x86: Samples, figures: Any
) -> None:
    started = boards.start(4)
    addresses = [board.address for board in started]
    ours = []
    with decnn_tvm.connect(addresses, timeout=TIMEOUT) as cluster:
        with cluster.deploy(package, policy=PATIENT) as session:
            for result in session.stream(samples, in_flight=2):
                ours.append(result)
                if len(ours) == 2:
                    started[1].process.kill()
                    killed = time.monotonic()
                if len(ours) == 3:
                    figures["seconds from a kill to the next result"] = round(
                        time.monotonic() - killed, 1
                    )
            owners = [device.groups for device in session.stats()]
    assert_logits_match(ours, on_x86, TOLERANCE)
    assert owners[1] == () and sorted(g for groups in owners for g in groups) == [0, 1, 2, 3]


def test_boards_and_pcs_in_one_cluster(
    boards: Any, package: Package, samples: Samples, on_x86: Samples
) -> None:
    with decnn_tvm.LocalCluster(2) as here:
        addresses = [here.workers[0].address, *(board.address for board in boards.start(2))]
        addresses.append(here.workers[1].address)
        with decnn_tvm.connect(addresses, timeout=TIMEOUT) as cluster:
            machines = [worker.machine().machine for worker in cluster.workers]
            assert machines == ["x86_64", "aarch64", "aarch64", "x86_64"]
            with cluster.deploy(package, policy=PATIENT) as session:
                ours = list(session.stream(samples[:2], in_flight=2))
    assert_logits_match(ours, on_x86[:2], TOLERANCE)
