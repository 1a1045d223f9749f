# SPDX-License-Identifier: Apache-2.0
"""Code for a newer core on an older one: refused, and where it is forced, a clean end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decnn_tvm
from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.package import Package
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import random_inputs

SHAPE = (1, 3, 64, 64)
SVE = {
    "kind": "llvm",
    "mtriple": "aarch64-linux-gnu",
    "mcpu": "neoverse-v1",
    "mattr": ["+neon", "+sve"],
}
PATIENT = Policy(beat=0.5, silence=20.0, orphan=300.0, rejoin=False)

Compile = Callable[..., Package]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    network = decnn_tvm.load(zoo.small("resnet18"))
    folder = tmp_path_factory.mktemp("newer")

    def build(name: str, target: Any) -> Package:
        return decnn_tvm.compile(network, folder / name, workers=1, targets=[target])

    return build


def test_it_is_refused(boards: Any, compiled: Compile) -> None:
    package = compiled("rpi5.pkg", "rpi5")
    (older,) = boards.start(1, cpu="cortex-a72")
    with decnn_tvm.connect([older.address], timeout=300) as cluster:
        with pytest.raises(PackageError, match=r"needs CPU features \['asimdhp', 'asimddp'"):
            cluster.deploy(package)


def test_the_core_that_it_is_for_runs_it(boards: Any, compiled: Compile) -> None:
    package = compiled("rpi5.pkg", "rpi5")
    x = random_inputs(SHAPE, 1, seed=3)[0]
    here = compiled("host.pkg", "host")
    with decnn_tvm.LocalCluster(1) as cluster, cluster.deploy(here) as session:
        expected = session.run(x)
    (newer,) = boards.start(1, cpu="cortex-a76")
    with decnn_tvm.connect([newer.address], timeout=300) as cluster:
        with cluster.deploy(package, policy=PATIENT) as session:
            np.testing.assert_allclose(session.run(x), expected, rtol=1e-4, atol=1e-4)


def test_code_that_faults_ends_in_an_error(boards: Any, compiled: Compile, tmp_path: Path) -> None:
    package = compiled("sve.pkg", SVE)
    forged = tmp_path / "forged.pkg"
    shutil.copytree(package.path, forged)
    manifest = json.loads((forged / "manifest.json").read_text())
    for target in manifest["targets"].values():
        assert "sve" in target["features"]
        target["features"] = ["asimd"]  # a lie, so that nobody refuses
    (forged / "manifest.json").write_text(json.dumps(manifest))
    (older,) = boards.start(1, cpu="cortex-a72")
    with decnn_tvm.connect([older.address], timeout=300) as cluster:
        with pytest.raises(ClusterError, match=r"gone|lost|went away|silent"):
            with cluster.deploy(forged, policy=PATIENT) as session:
                session.run(random_inputs(SHAPE, 1, seed=3)[0])
    assert older.process.wait(60) != 0
