# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import decnn_tvm

NAMES = {
    "DecnnError",
    "LocalCluster",
    "Network",
    "Package",
    "Session",
    "__version__",
    "compile",
    "connect",
    "decouple",
    "inspect_network",
    "load",
    "save_onnx",
    "tune",
}


def test_these_names_are_public() -> None:
    assert set(decnn_tvm.__all__) == NAMES
    assert set(dir(decnn_tvm)) >= NAMES


def test_every_name_leads_to_its_object() -> None:
    from decnn_tvm import compiler, decoupling, errors, frontend, inspection, network, package
    from decnn_tvm.runtime import Cluster, LocalCluster, Session
    from decnn_tvm.tuning import tuner

    homes = {
        "DecnnError": errors.DecnnError,
        "LocalCluster": LocalCluster,
        "Network": network.Network,
        "Package": package.Package,
        "Session": Session,
        "__version__": metadata.version("decnn-tvm"),
        "compile": compiler.compile_network,
        "connect": Cluster.connect,
        "decouple": decoupling.decouple,
        "inspect_network": inspection.inspect_network,
        "load": frontend.load,
        "save_onnx": frontend.save_onnx,
        "tune": tuner.tune,
    }
    assert homes == {name: getattr(decnn_tvm, name) for name in NAMES}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        decnn_tvm.lod  # noqa: B018


@pytest.mark.parametrize("module", ["decnn_tvm", "decnn_tvm.cli.main"])
def test_importing_loads_neither_tvm_nor_onnx(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    heavy = {"tvm", "tvm_ffi", "onnx", "onnxruntime", "torch", "numpy", "rich", "matplotlib"}
    assert module in out and not heavy.intersection(out)
