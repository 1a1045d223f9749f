# SPDX-License-Identifier: Apache-2.0
"""Run a network as plain TVM compiles it: slow, and none of our code past the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.passes import BindWeights
from decnn_tvm.testing.equality import Array


def plain_outputs(
    module: tvm.IRModule, inputs: Sequence[Array | Mapping[str, Array]]
) -> list[list[Array]]:
    """Compile ``main`` by `tvm.compile` with its weights bound, and return all outputs of each run.

    Parameters
    ----------
    module : IRModule
        In the canonical form of `decnn_tvm.network`.
    inputs : sequence of arrays, or of mappings from input name to array
        One item per run.
    """
    bound = tvm.transform.Sequential([BindWeights()])(module)
    names = [var.name for var in bound["main"].params]
    target = tvm.target.Target({"kind": "llvm", "num-cores": 1})
    machine = relax.VirtualMachine(tvm.compile(bound, target=target), tvm.cpu())
    runs = []
    for item in inputs:
        feed = item if isinstance(item, Mapping) else {names[0]: item}
        result = machine["main"](*(tvm.runtime.tensor(feed[name]) for name in names))
        tensors = [result] if hasattr(result, "numpy") else list(result)
        runs.append([np.asarray(tensor.numpy()) for tensor in tensors])
    return runs
