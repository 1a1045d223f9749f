# SPDX-License-Identifier: Apache-2.0
"""Samples for ``decnn run``: NumPy files, images, or seeded noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from decnn_tvm.errors import InputError
from decnn_tvm.plan import Plan, Value

Array: TypeAlias = npt.NDArray[Any]
Sample: TypeAlias = "Array | dict[str, Array]"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """How pixels become numbers: ``(pixel / 255 - mean) / std`` for each channel."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def read_sample(path: Path, plan: Plan, normalization: Normalization) -> Sample:
    """Read one sample for the inputs of `plan`.

    Parameters
    ----------
    path : Path
        ``.npy`` with one array, ``.npz`` with an array for each input, or an image.
    plan : Plan
        The network.
    normalization : Normalization
        For images.

    Raises
    ------
    InputError
        The file is missing or unreadable, or an image does not suit the network's input.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix in (".npy", ".npz"):
        return _numpy(path)
    if len(plan.inputs) != 1:
        raise InputError(
            f"{path}: {plan.model!r} has the inputs {list(plan.inputs)}; pass an .npz file with "
            "an array for each of them."
        )
    return image_sample(path, plan.value(plan.inputs[0]), normalization)


def image_sample(path: Path, value: Value, normalization: Normalization) -> Array:
    """Read an image, resize it to the input's height and width, and normalize it."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels, last = _image_layout(path, value)
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{path}: neither a NumPy file nor an image ({error}).") from error
    pixels = np.asarray(resized, "float32").reshape(height, width, channels) / 255.0
    mean, std = (np.asarray(x, "float32") for x in (normalization.mean, normalization.std))
    if any(len(x) not in (1, channels) for x in (mean, std)) or not std.all():
        raise InputError(
            f"mean {mean.tolist()}, std {std.tolist()}: expected 1 or {channels} numbers each, "
            "and no std of 0."
        )
    normal = ((pixels - mean) / std).astype(value.dtype)
    return np.ascontiguousarray((normal if last else normal.transpose(2, 0, 1))[np.newaxis])


def noise(plan: Plan, count: int, seed: int) -> Iterator[Sample]:
    """Draw `count` samples of standard normal numbers for every input."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            name: random.standard_normal(plan.value(name).shape).astype(plan.value(name).dtype)
            for name in plan.inputs
        }


def _numpy(path: Path) -> Sample:
    try:
        data = np.load(path, allow_pickle=False)
        return data if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: unreadable ({error}). Write it with numpy.save.") from error


def _image_layout(path: Path, value: Value) -> tuple[int, int, int, bool]:
    """Return height, width, channels, and whether the channels come last."""
    shape = value.shape
    if len(shape) == 4 and shape[0] == 1 and shape[1] in (1, 3):
        return shape[2], shape[3], shape[1], False
    if len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3):
        return shape[1], shape[2], shape[3], True
    raise InputError(
        f"{path}: input {value.name!r} of shape {shape} is no single image with 1 or 3 channels; "
        "pass an .npy file of that shape."
    )
