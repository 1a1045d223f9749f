# SPDX-License-Identifier: Apache-2.0
"""What a network answers: its logits, how many are right, how far they are from a teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from decnn_tvm.errors import TrainingError
from decnn_tvm.training.batches import Batches
from decnn_tvm.training.recipe import Distillation


@torch.no_grad()
def accuracy(module: nn.Module, batches: Batches) -> float:
    """Return the share of test images whose class the module ranks first; its mode stays.

    Raises
    ------
    TrainingError
        There are no test images.
    """
    was_training = module.training
    module.eval()
    right = total = 0
    for images, labels in batches.test():
        right += int((logits(module(images)).argmax(1) == labels).sum())
        total += len(labels)
    module.train(was_training)
    if not total:
        raise TrainingError("there are no test images: an accuracy needs some")
    return right / total


def logits(output: Any) -> Tensor:
    """Return the answer of a network: its output, or the first of several."""
    first = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(first, Tensor)
    return first.flatten(1)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, how: Distillation
) -> Tensor:
    """Return the loss of `Distillation` for logits (N, classes) and labels (N,)."""
    hard = functional.cross_entropy(student, labels)
    soft = functional.kl_div(
        functional.log_softmax(student / how.temperature, 1),
        functional.log_softmax(teacher / how.temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - how.weight) * hard + how.weight * how.temperature**2 * soft
