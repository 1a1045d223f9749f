# SPDX-License-Identifier: Apache-2.0
"""The engines that are compared: ours, ONNX Runtime and ncnn, each on one thread, float32.

An engine holds a list of parts (one for a whole network, one per stage for a device's shard) and
runs them in order on inputs that are ready.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.engine_sessions import convert_to_ncnn, load_ncnn, onnx_runtime_options
from decnn_tvm.package import Package
from decnn_tvm.plan import Plan
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.testing.stages import to_blocks

Array = npt.NDArray[Any]


class Engine(Protocol):
    """Runs parts; `outputs` of a run are checked before anything is timed."""

    def run(self) -> list[list[Array]]:
        """Run every part once; return the outputs of each."""


class OnnxRuntime:
    """ONNX Runtime with all graph optimisations.

    Parameters
    ----------
    parts, inputs
        What to run, on what.
    profile
        Folder for profiles of every run; by default nothing is profiled.
    """

    def __init__(
        self,
        parts: Sequence[onnx.ModelProto],
        inputs: Sequence[Sequence[Array]],
        profile: Path | None = None,
    ) -> None:
        import onnxruntime

        options = onnx_runtime_options()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile / "onnxruntime")
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

    def profiles(self) -> list[list[dict[str, Any]]]:
        """End profiling; return the events of each part."""
        paths = [Path(session.end_profiling()) for session, _ in self._parts]
        return [json.loads(path.read_text()) for path in paths]


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
            convert_to_ncnn(folder, name)
            net = load_ncnn(folder, name)
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


def _mat(array: Array) -> Any:
    import ncnn

    return ncnn.Mat(array[0] if array.shape[0] == 1 else array).clone()


class Ours:
    """The stages of one device of a compiled package, as a worker runs them."""

    def __init__(self, package: Package, inputs: Sequence[list[Array]]) -> None:
        plan = package.plan
        path, weights = device_part(package)
        self._library = StageLibrary(path, plan, weights)
        functions = [stage.function for stage in plan.stages]
        self._parts = list(zip(functions, in_blocks(plan, inputs), strict=True))

    def run(self) -> list[list[Array]]:
        """Run every part once."""
        return [self._library(function, arrays) for function, arrays in self._parts]


def device_part(package: Package) -> tuple[Path, DeviceWeights]:
    """Return the library and the weights of a package's first device."""
    (target,) = package.manifest.targets
    (count,) = package.manifest.targets[target].libraries
    weights = DeviceWeights(package, tuple(range(count)))
    return package.file(package.library(target, count)), weights


def in_blocks(plan: Plan, inputs: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Return the inputs of each stage in the layouts that the plan gives them."""
    blocks = {value.name: value.block for value in plan.values}
    return [
        [to_blocks(a, blocks[name]) for a, name in zip(arrays, stage.inputs, strict=True)]
        for stage, arrays in zip(plan.stages, inputs, strict=True)
    ]
