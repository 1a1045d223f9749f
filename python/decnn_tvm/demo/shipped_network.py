# SPDX-License-Identifier: Apache-2.0
"""The small decoupled network for CIFAR-10 that comes with the library, trained by its own code.

``cifar10/`` holds the network as ONNX, and a card that says how it was trained, how good it is and
what its answers mean. ``python -m benchmarks.ship_network`` writes both from a run of
``benchmarks.accuracy``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network

FOLDER = Path(__file__).parent / "cifar10"
MODEL, CARD = "network.onnx", "card.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What must be known of a trained network.

    Attributes
    ----------
    name : str
        Of the network.
    structure : str
        Row of `benchmarks.accuracy`.
    channels : list of int
        Of its stages.
    classes : list of str
        What its outputs stand for.
    mean, std : list of float
        It takes ``(pixel / 255 - mean) / std``.
    accuracy : float
        Share of the test images that it ranks right, 0 to 1.
    wire_accuracy : dict of str to float
        The same by the wire of its exchanges.
    epochs : int
        That it was trained for.
    macs, parameters : int
        Of one image.
    recipe : dict
        Settings of the training, `decnn_tvm.training.Recipe`.
    start : str
        What its weights were before.
    teacher_accuracy : float or None
        Of the dense network that it learnt from, if it did.
    regime : str
        Of the runs that it is one of (the dense network's, where it inherits), in words.
    command : str
        That gives this network.
    licence : str
        Of its weights, and what is known of the images that they come from.
    """

    name: str
    structure: str
    channels: list[int]
    classes: list[str]
    mean: list[float]
    std: list[float]
    accuracy: float
    wire_accuracy: dict[str, float]
    epochs: int
    macs: int
    parameters: int
    recipe: dict[str, Any]
    start: str
    teacher_accuracy: float | None
    regime: str
    command: str
    licence: str


def shipped_card(folder: Path = FOLDER) -> ModelCard:
    """Return the card of the network that comes with the library.

    Raises
    ------
    ModelError
        It is missing, or not what this version writes.
    """
    try:
        return ModelCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{folder / CARD}: not the card of a trained network ({error}); install decnn-tvm again"
        ) from error


def shipped_network(folder: Path = FOLDER) -> Network:
    """Return the decoupled network that comes with the library, batch norms not folded."""
    return load(folder / MODEL, name=shipped_card(folder).name)
