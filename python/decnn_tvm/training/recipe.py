# SPDX-License-Identifier: Apache-2.0
"""How a network is trained: all settings that decide what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from decnn_tvm.errors import TrainingError
from decnn_tvm.training.wire_rounding import WIRES, Wire

Schedule = Literal["step", "cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Learn from a teacher's answers too.

    The loss is ``(1 - weight) CE(s, y) + weight T^2 KL(softmax(t / T) || softmax(s / T))`` for the
    student's logits s, the teacher's t and the label y: Hinton, Vinyals and Dean, "Distilling the
    Knowledge in a Neural Network" (2015).

    Attributes
    ----------
    temperature : float
        T, above 0.
    weight : float
        Share of the teacher, 0 to 1.
    """

    temperature: float = 4.0
    weight: float = 0.7

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 <= self.weight <= 1):
            raise TrainingError(
                f"distillation with temperature {self.temperature} and weight {self.weight}: "
                "expected a temperature above 0 and a weight of 0 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of a training; the defaults are those that the authors of DeCNN published.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    learning_rate, momentum, weight_decay : float
        Of stochastic gradient descent.
    schedule : {"step", "cosine"}
        Times `step_factor` after every `step_epochs`; or down to 0 along half a cosine.
    step_epochs : int
        See `schedule`.
    step_factor : float
        See `schedule`.
    warmup_epochs : float
        In which the learning rate rises from 0, line by line.
    dropout : float
        Before dense layers.
    wire : {"float32", "float16", "int8"}
        Exchanges are rounded as this wire does, in training too.
    distillation : Distillation, optional
        Learn from the teacher, which has to be given then.
    patience : int, optional
        Stop after so many epochs without a better accuracy.
    keep_best : bool
        End with the weights that tested best, rather than with those of the last epoch. To compare
        networks take the last: the best are chosen by the very images that they are tested on.
    seed : int
        Of everything random.
    """

    epochs: int = 90
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "step"
    step_epochs: int = 30
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    dropout: float = 0.0
    wire: Wire = "float32"
    distillation: Distillation | None = None
    patience: int | None = None
    keep_best: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (self.epochs >= 1, f"epochs {self.epochs}: expected 1 or more"),
            (
                0 < self.learning_rate < math.inf,
                f"learning rate {self.learning_rate}: expected a number above 0",
            ),
            (0 <= self.momentum < 1, f"momentum {self.momentum}: expected 0 to below 1"),
            (self.weight_decay >= 0, f"weight decay {self.weight_decay}: expected 0 or more"),
            (
                self.schedule in ("step", "cosine"),
                f"schedule {self.schedule!r}: expected 'step' or 'cosine'",
            ),
            (
                self.step_epochs >= 1 and self.step_factor > 0,
                f"steps of {self.step_epochs} epochs by {self.step_factor}: expected 1 or more "
                "epochs, and a factor above 0",
            ),
            (
                0 <= self.warmup_epochs < self.epochs,
                f"warm-up of {self.warmup_epochs} epochs: expected less than {self.epochs}",
            ),
            (
                0 <= self.dropout < 1,
                f"dropout {self.dropout}: expected a probability, 0 to below 1",
            ),
            (self.wire in WIRES, f"wire {self.wire!r}: expected one of {list(WIRES)}"),
            (
                self.patience is None or self.patience >= 1,
                f"patience {self.patience}: expected 1 or more epochs",
            ),
            (0 <= self.seed < 2**32, f"seed {self.seed}: expected 0 to {2**32 - 1}"),
        )
        for holds, message in checks:
            if not holds:
                raise TrainingError(message)

    def rate(self, epoch: float) -> float:
        """Return the learning rate `epoch` epochs (and a fraction) after the start."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        if self.schedule == "step":
            return float(self.learning_rate * self.step_factor ** int(epoch / self.step_epochs))
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * min(done, 1.0)))
