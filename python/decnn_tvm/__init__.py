# SPDX-License-Identifier: Apache-2.0
"""Run one CNN across several small devices.

>>> import decnn_tvm
>>> network = decnn_tvm.decouple(decnn_tvm.load("resnet50.onnx"), preset="resnet50-x1.75")
>>> package = decnn_tvm.compile(network, "resnet50.pkg")
>>> with decnn_tvm.LocalCluster(4) as cluster, cluster.deploy(package) as session:
...     result = session.run(image)

Names are loaded on first use, so that a worker, which imports `decnn_tvm.runtime` alone, gets
neither TVM's compiler nor ONNX.
"""

from __future__ import annotations

import importlib
import operator
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decnn_tvm.compiler import compile_network as compile
    from decnn_tvm.decoupling import decouple
    from decnn_tvm.errors import DecnnError
    from decnn_tvm.frontend import load, save_onnx
    from decnn_tvm.inspection import inspect_network
    from decnn_tvm.network import Network
    from decnn_tvm.package import Package
    from decnn_tvm.runtime import Cluster, LocalCluster, Session
    from decnn_tvm.tuning.tuner import tune

    __version__: str
    connect = Cluster.connect

__all__ = [
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
]

_HOMES = {
    "DecnnError": "decnn_tvm.errors:DecnnError",
    "LocalCluster": "decnn_tvm.runtime:LocalCluster",
    "Network": "decnn_tvm.network:Network",
    "Package": "decnn_tvm.package:Package",
    "Session": "decnn_tvm.runtime:Session",
    "compile": "decnn_tvm.compiler:compile_network",
    "connect": "decnn_tvm.runtime:Cluster.connect",
    "decouple": "decnn_tvm.decoupling:decouple",
    "inspect_network": "decnn_tvm.inspection:inspect_network",
    "load": "decnn_tvm.frontend:load",
    "save_onnx": "decnn_tvm.frontend:save_onnx",
    "tune": "decnn_tvm.tuning.tuner:tune",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("decnn-tvm")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = operator.attrgetter(attribute)(importlib.import_module(module))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
