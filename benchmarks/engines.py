# SPDX-License-Identifier: Apache-2.0
"""The engines that are compared: ours, ONNX Runtime and ncnn, each on one thread, float32.

An engine holds a list of parts (one for a whole network, one per stage for a device's shard) and
runs them in order on inputs that are ready.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from decnn_tvm.errors import CompileError
from decnn_tvm.package import Package
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.testing.stages import to_blocks

Array = npt.NDArray[Any]


class Engine(Protocol):
    """Runs parts; `outputs` of a run are checked before anything is timed."""

    def run(self) -> list[list[Array]]:
        """Run every part once; return the outputs of each."""


class OnnxRuntime:
    """ONNX Runtime with all graph optimisations."""

    def __init__(self, parts: Sequence[onnx.ModelProto], inputs: Sequence[list[Array]]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.graph_optimization_level = level
        self._parts = []
        for model, arrays in zip(parts, inputs, strict=True):
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            names = [info.name for info in session.get_inputs()]
            self._parts.append((session, dict(zip(names, arrays, strict=True))))

    def run(self) -> list[list[Array]]:
        """Run every part once."""
        return [session.run(None, feed) for session, feed in self._parts]


class Ncnn:
    """ncnn in float32 with Winograd and packed layouts; models are converted by pnnx.

    Raises
    ------
    CompileError
        If pnnx can't convert a part.
    """

    def __init__(
        self, parts: Sequence[onnx.ModelProto], inputs: Sequence[list[Array]], folder: Path
    ) -> None:
        self._parts = []
        for index, (model, arrays) in enumerate(zip(parts, inputs, strict=True)):
            name = f"part{index}"
            onnx.save(model, folder / f"{name}.onnx")
            net = _ncnn_net(folder, name)
            self._parts.append((net, [_mat(array) for array in arrays], len(model.graph.output)))

    def run(self) -> list[list[Array]]:
        """Run every part once."""
        results = []
        for net, mats, count in self._parts:
            with net.create_extractor() as extractor:
                for index, mat in enumerate(mats):
                    extractor.input(f"in{index}", mat)
                results.append(
                    [np.array(extractor.extract(f"out{index}")[1]) for index in range(count)]
                )
        return results


def _ncnn_net(folder: Path, name: str) -> Any:
    import ncnn
    import pnnx

    command = [pnnx.EXEC_PATH, f"{name}.onnx", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if not (folder / f"{name}.ncnn.param").is_file():
        raise CompileError(f"pnnx can't convert {name}: {done.stdout[-300:]}{done.stderr[-300:]}")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    for option in ("use_bf16_storage", "use_bf16_packed"):
        with contextlib.suppress(AttributeError):  # not in every version
            setattr(net.opt, option, False)
    for option in ("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout"):
        setattr(net.opt, option, True)
    net.load_param(str(folder / f"{name}.ncnn.param"))
    net.load_model(str(folder / f"{name}.ncnn.bin"))
    return net


def _mat(array: Array) -> Any:
    import ncnn

    return ncnn.Mat(array[0] if array.shape[0] == 1 else array).clone()


class Ours:
    """The stages of one device of a compiled package, as a worker runs them."""

    def __init__(self, package: Package, inputs: Sequence[list[Array]]) -> None:
        plan = package.plan
        (target,) = package.manifest.targets
        (count,) = package.manifest.targets[target].libraries
        weights = DeviceWeights(package, tuple(range(count)))
        self._library = StageLibrary(package.file(package.library(target, count)), plan, weights)
        values = {value.name: value for value in plan.values}
        self._parts = []
        for stage, arrays in zip(plan.stages, inputs, strict=True):
            blocks = [values[name].block for name in stage.inputs]
            ready = [to_blocks(a, block) for a, block in zip(arrays, blocks, strict=True)]
            self._parts.append((stage.function, ready))

    def run(self) -> list[list[Array]]:
        """Run every part once."""
        return [self._library(function, arrays) for function, arrays in self._parts]
