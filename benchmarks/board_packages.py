# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.boards` needs beforehand, each made once, in a folder that may be kept.

Packages; the dense networks for ONNX Runtime and ncnn; photographs; and ONNX Runtime's answers to
them for every network, which outputs are compared with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.board_contestants import NETWORKS, PRESET_GROUPS, Contestant
from benchmarks.engine_sessions import convert_to_ncnn
from benchmarks.harness import progress
from decnn_tvm.cli.samples import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalization,
    image_sample,
    normalize,
)
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.demo.data import photographs
from decnn_tvm.frontend import load, save_onnx
from decnn_tvm.network import Network
from decnn_tvm.plan import Host, Value
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import reference_outputs

PIXELS = "pixels.npy"
"""Photographs that outputs are compared on, (count, 1, 3, 224, 224), uint8."""
NUMBERS = "numbers.npy"
"""The same as networks take them that do not normalize, float32."""
_INPUT = Value(name="image", shape=(1, 3, 224, 224), dtype="uint8", placement=Host())
_CALIBRATED_ON = 10


def prepare(folder: Path, model: str, contestants: Iterable[Contestant]) -> None:
    """Make what is missing to measure these contestants beside engines that run `model`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / NUMBERS).exists():
        pixels = _pixels()[_CALIBRATED_ON:]
        np.save(folder / PIXELS, pixels)
        np.save(folder / NUMBERS, numbers(pixels))
    if not (folder / f"{model}.ncnn.bin").exists():
        progress(f"{model}: for ONNX Runtime and ncnn")
        onnx.save(zoo.MODELS[model](), folder / f"{model}.onnx")
        convert_to_ncnn(folder, model)
    if not (folder / reference_file(model)).exists():
        _write_reference(folder, model)
    for contestant in contestants:
        if not (folder / reference_file(contestant.model)).exists():
            progress(f"{contestant.model}: reference")
            network = _network(contestant.network, contestant.groups)
            save_onnx(network, folder / f"{contestant.model}.onnx")
            _write_reference(folder, contestant.model)
        if not (folder / contestant.package).exists():
            progress(f"{contestant.package}: compiling")
            _compile(folder / contestant.package, contestant)


def reference_file(model: str) -> str:
    """Return where ONNX Runtime's answers of a network are."""
    return f"{model}.reference.npy"


def numbers(pixels: Array) -> Array:
    """Return pixels, (count, 1, 3, height, width), as networks take them."""
    last = np.moveaxis(pixels, 2, -1)
    return np.ascontiguousarray(np.moveaxis(normalize(last, Normalization()), -1, 2))


def _pixels() -> Array:
    files = photographs(2 * _CALIBRATED_ON)
    return np.stack([image_sample(path, _INPUT, Normalization()) for path in files])


@functools.cache
def _dense(model: str) -> Network:
    return load(zoo.MODELS[model](), name=model)


@functools.cache
def _network(name: str, groups: int) -> Network:
    """Return a dense network, or what it is decoupled to where there are groups."""
    if not groups:
        return _dense(name)
    decoupling = NETWORKS[name]
    dense = _dense(decoupling.model)
    if groups == PRESET_GROUPS:
        return decouple(dense, preset=decoupling.preset, weights="fresh")
    assert decoupling.width is not None
    return decouple(dense, groups=groups, width=decoupling.width, weights="fresh")


def _write_reference(folder: Path, model: str) -> None:
    outputs = reference_outputs(folder / f"{model}.onnx", list(np.load(folder / NUMBERS)))
    np.save(folder / reference_file(model), np.stack(outputs))


def _compile(path: Path, contestant: Contestant) -> None:
    calibration = list(_pixels()[:_CALIBRATED_ON]) if contestant.wire == "int8" else None
    single = contestant.strategy == "single"
    compile_network(
        _network(contestant.network, contestant.groups),
        path,
        strategy=contestant.split,
        workers=None if single or contestant.groups else contestant.boards,
        wire=contestant.wire,
        calibration=calibration,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        row_tiles=contestant.tiles,
        winograd=NETWORKS[contestant.network].winograd if contestant.groups else None,
    )
