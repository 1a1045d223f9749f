# SPDX-License-Identifier: Apache-2.0
"""Compiled libraries, run with TVM's runtime library alone.

`tvm_ffi` and ``libtvm_runtime.so`` suffice: the Python package `tvm`, and the compiler that its
import loads, stay out of a worker. Where `tvm` is loaded already, its runtime is used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Indices, Plan, Stage
from decnn_tvm.runtime.tensors import Array, aligned

logger = logging.getLogger(__name__)

PACK_SUFFIX = "_transform_params"
"""``relax.transform.LiftTransformParams`` calls the function that packs ``f``'s weights so."""
_CPU = 1
_NAIVE, _POOLED = 1, 2


@functools.cache
def load_runtime() -> Any:
    """Load TVM's runtime library into this process, without importing `tvm`; return `tvm_ffi`.

    Raises
    ------
    PackageError
        apache-tvm is not installed.
    """
    import tvm_ffi

    if "tvm" in sys.modules:
        return tvm_ffi
    spec = importlib.util.find_spec("tvm")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        library = Path(folder) / "lib" / "libtvm_runtime.so"
        if library.is_file():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            return tvm_ffi
    raise PackageError(
        "libtvm_runtime.so is not installed. Run: pip install apache-tvm==0.27.0.post1"
    )


def empty_pool() -> None:
    """Free the memory that TVM keeps for the next run of a stage; no stage may be loaded."""
    load_runtime().get_global_func("vm.builtin.memory_manager.clear")()


class StageLibrary:
    """A library with its weights packed: a `StageRunner`.

    Parameters
    ----------
    path : Path
        The compiled library.
    plan : Plan
        The plan it was compiled for.
    weights : mapping of str to array
        Canonical weights of this device's groups; a stage's are asked for when they are packed,
        the stage with the most first, and not kept.
    groups : tuple of int, optional
        This device's groups: stages that belong to others are left out.

    Attributes
    ----------
    weight_bytes : int
        Bytes of the packed weights.

    Raises
    ------
    PackageError
        The library can't be loaded, lacks a stage, or refuses the weights.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        weights: Mapping[str, Array],
        groups: Indices | None = None,
    ) -> None:
        self._ffi = load_runtime()
        self._path = path
        self._module = self._load(path, _POOLED)
        stages = [s for s in plan.stages if groups is None or s.runs_on(groups)]
        self._functions = {stage.function: self._function(stage.function) for stage in stages}
        self._packed: dict[str, tuple[Any, ...]] = {}
        # What packing takes besides its results is freed, which a pool would keep.
        packer = self._load(path, _NAIVE)
        kept: dict[tuple[Any, ...], list[Any]] = {}
        for stage in _heaviest_first(plan, stages):
            function = self._function(stage.function + PACK_SUFFIX, packer)
            tensors = (aligned(weights[name]) for name in stage.weights)
            packed = self._pack(stage.function, function, tensors)
            self._packed[stage.function] = tuple(_first_equal(tensor, kept) for tensor in packed)
        # Stages may share a packed weight: count each tensor once.
        arrays = [np.from_dlpack(t) for tensors in self._packed.values() for t in tensors]
        self.weight_bytes = sum({a.ctypes.data: a.nbytes for a in arrays}.values())

    def __call__(self, function: str, inputs: Sequence[Array]) -> list[Array]:
        """Run a stage; inputs and outputs are shared with TVM, not copied."""
        tensors = [self._ffi.from_dlpack(aligned(array)) for array in inputs]
        result = self._functions[function](*tensors, *self._packed[function])
        outputs = [result] if isinstance(result, self._ffi.Tensor) else list(result)
        return [np.from_dlpack(tensor) for tensor in outputs]

    def kernel_seconds(self, function: str, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        """Run a stage and return the kernels that it called, in order, with their seconds."""
        seen: list[tuple[str, float]] = []
        start = 0.0

        def note(_: Any, name: str, before: bool, *__: Any) -> None:
            nonlocal start
            if not before:
                seen.append((str(name), time.perf_counter() - start))
            start = time.perf_counter()

        module = self._load(self._path, _POOLED)
        module["set_instrument"](self._ffi.convert_func(note))
        tensors = [self._ffi.from_dlpack(aligned(array)) for array in inputs]
        module[function](*tensors, *self._packed[function])
        return [(name, seconds) for name, seconds in seen if not name.startswith("vm.builtin.")]

    def _load(self, path: Path, allocator: int) -> Any:
        try:
            module = self._ffi.load_module(str(path))["vm_load_executable"]()
            module["vm_initialization"](_CPU, 0, allocator)
        except Exception as error:  # tvm_ffi raises what the C++ side names
            raise PackageError(
                f"{path.name}: can't be loaded ({_first_line(error)}). Compile the package again."
            ) from error
        return module

    def _function(self, name: str, module: Any = None) -> Any:
        try:
            return (module or self._module)[name]
        except AttributeError as error:
            raise PackageError(
                f"{self._path.name}: has no function {name!r}. Compile the package again."
            ) from error

    def _pack(self, function: str, pack: Any, weights: Iterable[Array]) -> tuple[Any, ...]:
        try:
            return tuple(pack([self._ffi.from_dlpack(array) for array in weights]))
        except Exception as error:  # tvm_ffi raises what the C++ side names
            raise PackageError(
                f"{self._path.name}: {function!r} refuses its weights ({_first_line(error)}). "
                "Compile the package again."
            ) from error


def _first_equal(tensor: Any, kept: dict[tuple[Any, ...], list[Any]]) -> Any:
    """Return the first tensor equal to this one, so that bands of a layer share its weights."""
    array = np.from_dlpack(tensor)
    alike = kept.setdefault((array.shape, array.dtype, array.ravel()[:16].tobytes()), [])
    for other in alike:
        if np.array_equal(np.from_dlpack(other), array):
            return other
    alike.append(tensor)
    return tensor


def _heaviest_first(plan: Plan, stages: Iterable[Stage]) -> list[Stage]:
    """Order stages so that the originals of the most weights meet the fewest packed ones."""
    sizes = {weight.name: math.prod(weight.shape) for weight in plan.weights}
    return sorted(stages, key=lambda s: -sum(sizes[name] for name in s.weights))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
