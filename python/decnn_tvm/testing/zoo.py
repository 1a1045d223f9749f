# SPDX-License-Identifier: Apache-2.0
"""Networks for tests, tutorials and benchmarks, as ONNX models with seeded random weights.

>>> model = resnet(50, image_size=64, classes=10)
>>> model = small("mobilenet_v2")

Structure and weight names follow torchvision. The weights are untrained: good for comparing two
ways of running a network, useless for classifying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import onnx

from decnn_tvm.testing.concatenating_networks import densenet121, googlenet, squeezenet
from decnn_tvm.testing.residual_networks import mobilenet_v2, resnet
from decnn_tvm.testing.sequential_networks import alexnet, vgg16_bn
from decnn_tvm.testing.shuffling_networks import shufflenet_v1

__all__ = [
    "MODELS",
    "SMALL",
    "alexnet",
    "densenet121",
    "googlenet",
    "mobilenet_v2",
    "resnet",
    "shufflenet_v1",
    "small",
    "squeezenet",
    "vgg16_bn",
]

MODELS: Mapping[str, Callable[..., onnx.ModelProto]] = MappingProxyType(
    {
        "resnet18": partial(resnet, 18),
        "resnet34": partial(resnet, 34),
        "resnet50": partial(resnet, 50),
        "vgg16_bn": vgg16_bn,
        "alexnet": alexnet,
        "mobilenet_v2": mobilenet_v2,
        "squeezenet": squeezenet,
        "googlenet": googlenet,
        "densenet121": densenet121,
        "shufflenet_v1": shufflenet_v1,
    }
)
"""Builders by name; without arguments they give the full-size network."""

SMALL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "resnet18": {"image_size": 64, "width": 0.5, "blocks": (1, 1, 1, 1)},
        "resnet34": {"image_size": 64, "width": 0.5, "blocks": (1, 2, 1, 1)},
        "resnet50": {"image_size": 64, "width": 0.25, "blocks": (1, 1, 1, 1)},
        "vgg16_bn": {"image_size": 64, "width": 0.25, "hidden": 128},
        "alexnet": {"image_size": 96, "width": 0.25, "hidden": 128},
        "mobilenet_v2": {"image_size": 64, "width": 0.5, "repeats": (1, 2, 1, 2, 1, 1, 1)},
        "squeezenet": {"image_size": 64, "width": 0.5},
        "googlenet": {"image_size": 64, "width": 0.25, "blocks": (1, 2, 1)},
        "densenet121": {"image_size": 64, "width": 0.5, "blocks": (2, 3, 2, 2)},
        "shufflenet_v1": {"image_size": 64, "width": 0.4, "blocks": (2, 2, 2)},
    }
)
"""Arguments that keep structure and variety and make a network cheap to compile and run."""


def small(name: str, **options: Any) -> onnx.ModelProto:
    """Build the small variant of a network of `MODELS`: 64 or 96 pixels, 10 classes.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    options
        Passed on to the builder; they win over `SMALL`.
    """
    arguments: dict[str, Any] = {"classes": 10, **SMALL[name], **options}
    return MODELS[name](**arguments)
