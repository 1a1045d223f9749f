# SPDX-License-Identifier: Apache-2.0
"""The loop: epochs of stochastic gradient descent, a checkpoint after each, the best weights kept.

A training that was interrupted, by Ctrl-C or by a machine that went down, goes on from the last
epoch that was done and gives what it would have given; on a GPU but for the order of its sums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from decnn_tvm.errors import TrainingError
from decnn_tvm.training.answers import accuracy, distillation_loss, logits
from decnn_tvm.training.batches import Batches
from decnn_tvm.training.checkpoint import Identity, load_checkpoint, save_checkpoint, sketch
from decnn_tvm.training.observation import device_of
from decnn_tvm.training.recipe import Recipe
from decnn_tvm.training.torch_failures import explained

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What an epoch gave: accuracies are shares of images, 0 to 1; seconds are of all of it."""

    epoch: int
    learning_rate: float
    loss: float
    train_accuracy: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training is: steps and loss of the epoch under way, and the epochs done."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    history: tuple[EpochRecord, ...]


ProgressCallback: TypeAlias = Callable[[TrainingProgress], None]


def train(
    module: nn.Module,
    batches: Batches,
    recipe: Recipe,
    folder: str | Path,
    *,
    teacher: nn.Module | None = None,
    start: str = "",
    mixed_precision: bool | None = None,
    finish: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[EpochRecord, ...]:
    """Train a module and leave it in eval mode with the weights that the recipe keeps.

    Parameters
    ----------
    module : nn.Module
        From `to_torch`, on the device of the batches.
    batches : Batches
        Images and labels.
    recipe : Recipe
        How.
    folder : str or Path
        Where the checkpoint is; if one of this training is there, it goes on from it.
    teacher : nn.Module, optional
        For `Recipe.distillation`; on the same device.
    start : str
        What the weights are at first: a checkpoint of another start is not this training's.
    mixed_precision : bool, optional
        Compute in 16 bits what can be so computed; by default on a GPU. On a CPU it pays where the
        processor multiplies bfloat16 itself.
    finish : bool
        Train no more: take what the checkpoint holds.
    progress : callable, optional
        Told of every step.

    Raises
    ------
    TrainingError
        A loss that is not finite, a checkpoint of another training, a teacher that is missing, too
        little memory on a GPU, or nothing to `finish`.
    """
    if recipe.distillation is not None and teacher is None:
        raise TrainingError("distillation needs a teacher: give the dense network")
    path = Path(folder) / CHECKPOINT
    run = _Run(module, batches, recipe, teacher, mixed_precision, progress)
    identity = _identity(run, start)
    state = load_checkpoint(path, identity)
    if state is not None:
        run.restore(state)
        logger.info("going on after epoch %d of %d", len(run.history), recipe.epochs)
    elif finish:
        raise TrainingError(f"there is no {path}: no epoch was done that could be finished with")
    while not finish and len(run.history) < recipe.epochs and not run.is_stale():
        with explained():
            run.epoch()
        save_checkpoint(path, identity, run.state())
    module.load_state_dict(run.best)
    module.eval()
    return tuple(run.history)


class _Run:
    """A training under way."""

    def __init__(
        self,
        module: nn.Module,
        batches: Batches,
        recipe: Recipe,
        teacher: nn.Module | None,
        mixed_precision: bool | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.module, self.batches, self.recipe = module, batches, recipe
        self.teacher, self.progress = teacher, progress
        self.device = device_of(module)
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        mixed = self.device.type == "cuda" if mixed_precision is None else mixed_precision
        self.precision = _half_precision(self.device) if mixed else None
        # bfloat16 has the range of float32, and so needs no scaling of the loss.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = _copied(module)
        if teacher is not None:
            teacher.eval()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.history = [EpochRecord(**record) for record in state["history"]]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "history": [dataclasses.asdict(record) for record in self.history],
        }

    def is_stale(self) -> bool:
        """Tell whether the accuracy has not risen for as long as the recipe bears."""
        if self.recipe.patience is None or not self.history:
            return False
        found = [record.accuracy for record in self.history]
        return len(found) - 1 - found.index(max(found)) >= self.recipe.patience

    def epoch(self) -> None:
        """Train for an epoch, test, and keep the weights if they are the best so far."""
        number, start = len(self.history), time.perf_counter()
        self.module.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.recipe.seed * 1_000_003 + number)  # of dropout
            loss, right, total = self._steps(number)
        found = accuracy(self.module, self.batches)
        highest = max((record.accuracy for record in self.history), default=-1.0)
        if found > highest or not self.recipe.keep_best:
            self.best = _copied(self.module)
        self.history.append(
            EpochRecord(
                epoch=number + 1,
                learning_rate=self.optimizer.param_groups[0]["lr"],
                loss=loss,
                train_accuracy=right / max(total, 1),
                accuracy=found,
                seconds=time.perf_counter() - start,
            )
        )
        self._report(self.batches.steps, loss)

    def _steps(self, number: int) -> tuple[float, int, int]:
        losses = torch.zeros((), device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        total, steps = 0, self.batches.steps
        shown = 0.0
        for step, (images, labels) in enumerate(self.batches.epoch(number)):
            rate = self.recipe.rate(number + step / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, answers = self._step(images, labels)
            losses += loss
            right += (answers.argmax(1) == labels).sum()
            total += len(labels)
            if step % 20 == 0:  # reading a loss waits for a GPU
                shown = float(losses) / (step + 1)
                self._check(shown, number)
                self._report(step, shown)
        mean = float(losses) / max(steps, 1)
        self._check(mean, number)
        return mean, int(right), total

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            answers = logits(self.module(images)).float()
            loss = self._loss(answers, images, labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), answers.detach()

    def _loss(self, answers: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        how = self.recipe.distillation
        if how is None or self.teacher is None:
            return functional.cross_entropy(answers, labels)
        with torch.no_grad():
            wanted = logits(self.teacher(images)).float()
        return distillation_loss(answers, wanted, labels, how)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is not None
        return torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=enabled)

    def _check(self, loss: float, number: int) -> None:
        if not abs(loss) < float("inf"):
            raise TrainingError(
                f"the loss is {loss} in epoch {number + 1}: the training diverged; lower the "
                f"learning rate ({self.recipe.learning_rate})"
            )

    def _report(self, step: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(
                TrainingProgress(
                    epoch=len(self.history),
                    epochs=self.recipe.epochs,
                    step=step,
                    steps=self.batches.steps,
                    loss=loss,
                    history=tuple(self.history),
                )
            )


def _half_precision(device: torch.device) -> torch.dtype:
    # PyTorch also says yes where it emulates bfloat16: NVIDIA's have it from capability 8 on.
    if device.type == "cuda" and torch.version.hip is None:
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16
    return torch.bfloat16


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _identity(run: _Run, start: str) -> Identity:
    states = [run.module.state_dict(), {} if run.teacher is None else run.teacher.state_dict()]
    shapes = [{name: list(value.shape) for name, value in state.items()} for state in states]
    graphs = [getattr(module, "code", "") for module in (run.module, run.teacher)]
    settings = {**dataclasses.asdict(run.recipe), "patience": None}
    parts = [shapes, graphs, settings, run.batches.fingerprint(), start, str(run.precision)]
    text = json.dumps(parts, sort_keys=True)
    return Identity(
        text=hashlib.sha256(text.encode()).hexdigest(),
        weights=tuple(number for state in states for number in sketch(state)),
    )
