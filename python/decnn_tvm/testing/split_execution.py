# SPDX-License-Identifier: Apache-2.0
"""Run a network split over devices of this process, for comparison with a reference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from decnn_tvm.compiler import compile_network
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.runtime.in_process import InProcessCluster

Array = npt.NDArray[Any]


@contextmanager
def temporary_package(network: Network, **options: Any) -> Iterator[Package]:
    """Compile `network` to a package that is removed afterwards.

    Parameters
    ----------
    network : Network
        The network.
    options
        Passed on to `decnn_tvm.compiler.compile_network`; the shares asked for alone are compiled,
        unless ``all_shares`` is among them.
    """
    with tempfile.TemporaryDirectory(prefix="decnn-test-") as folder:
        yield compile_network(network, Path(folder) / "package", **{"all_shares": False, **options})


def split_outputs(package: Package, inputs: Sequence[Array], shares: Sequence[int]) -> list[Array]:
    """Run `package` on one device of this process per share; return the outputs in order."""
    with (
        InProcessCluster(len(shares)) as cluster,
        cluster.deploy(package, shares=shares) as session,
    ):
        outputs = [session.run(sample) for sample in inputs]
    return [next(iter(o.values())) if isinstance(o, dict) else o for o in outputs]
