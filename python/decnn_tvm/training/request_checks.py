# SPDX-License-Identifier: Apache-2.0
"""Whether network, teacher, images and labels go together, before a training begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from decnn_tvm.errors import TrainingError
from decnn_tvm.network import Network
from decnn_tvm.training.batches import Batch, Batches, ImageBatches
from decnn_tvm.training.exchanges import exchanges
from decnn_tvm.training.recipe import Recipe


def check_request(network: Network, recipe: Recipe) -> None:
    """Raise `TrainingError` where a network is no classifier or can't have the recipe's wire."""
    shape = network.outputs[0].shape
    if len(network.inputs) != 1 or len(shape) < 2:
        raise TrainingError(
            f"network {network.name!r} has {len(network.inputs)} inputs and an output of shape "
            f"{shape}: the recipe is for classifiers, one image in and one number for each class "
            "out; use to_torch and a loop of your own"
        )
    if recipe.wire != "float32" and not exchanges(network):
        raise TrainingError(
            f"wire {recipe.wire}: network {network.name!r} is not decoupled, so nothing is rounded "
            "on its way between devices; decouple it first, or leave the wire at float32"
        )


def check_batches(network: Network, batches: Batches, device: torch.device | str) -> None:
    """Raise `TrainingError` where the first images or labels are not what the network takes."""
    classes = network.outputs[0].shape[1]
    for name, given in (("training", batches.epoch(0)), ("test", batches.test())):
        first = next(iter(given), None)
        if first is None:
            raise TrainingError(f"there are no {name} batches: expected one image or more")
        _check_batch(f"{name} batch", first, network.inputs[0].shape[1:], classes, device)
    if isinstance(batches, ImageBatches) and len(batches.data.classes) > classes:
        raise TrainingError(
            f"the images are of {len(batches.data.classes)} classes, and network "
            f"{network.name!r} tells {classes} apart; expected at most as many"
        )


def _check_batch(
    name: str,
    batch: Batch,
    shape: Sequence[int],
    classes: int,
    device: torch.device | str,
) -> None:
    images, labels = batch
    kind = torch.device(device).type
    if images.device.type != kind or labels.device.type != kind:
        raise TrainingError(
            f"{name}: images are on {images.device.type}, labels on {labels.device.type}, and "
            f"training is to be on {kind}; give batches and train_network the same device"
        )
    if tuple(images.shape[1:]) != tuple(shape) or not images.is_floating_point():
        raise TrainingError(
            f"{name}: images are {images.dtype}{list(images.shape)}; expected floats "
            f"{['N', *shape]}, normalised as the network takes them"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise TrainingError(
            f"{name}: labels are {labels.dtype}{list(labels.shape)}; expected the number of a "
            f"class for each of {len(images)} images, int64"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise TrainingError(
            f"{name}: labels go from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{classes - 1}, for what the network tells apart"
        )


def check_teacher(network: Network, teacher: Network) -> None:
    """Raise `TrainingError` where a teacher takes other images or tells other classes apart."""
    for name, own, other in (
        ("takes", network.inputs[0].shape[1:], teacher.inputs[0].shape[1:]),
        ("gives", network.outputs[0].shape[1:], teacher.outputs[0].shape[1:]),
    ):
        if tuple(own) != tuple(other):
            raise TrainingError(
                f"teacher {teacher.name!r} {name} {tuple(other)}, network {network.name!r} "
                f"{tuple(own)}; expected a teacher for the same images and classes"
            )
