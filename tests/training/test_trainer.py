# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import TrainingError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.training import (
    Distillation,
    ImageBatches,
    ImageData,
    Recipe,
    accuracy,
    calibrate_wires,
    to_torch,
    train,
    trainer,
)
from decnn_tvm.training.answers import distillation_loss
from decnn_tvm.training.trainer import TrainingProgress
from decnn_tvm.training.wire_rounding import wire_roundings
from tests.training.conftest import MEAN, STD

RECIPE = Recipe(epochs=8, learning_rate=0.1, schedule="cosine", warmup_epochs=0.5, dropout=0.1)


def trained(network: Network, batches: ImageBatches, folder: Path, **options: object) -> object:
    module = to_torch(network, dropout=RECIPE.dropout)
    return module, train(module, batches, RECIPE, folder, **options)  # type: ignore[arg-type]


def test_training_learns(grouped: Network, batches: ImageBatches, tmp_path: Path) -> None:
    module, history = trained(grouped, batches, tmp_path)  # type: ignore[misc]
    assert accuracy(to_torch(grouped), batches) < 0.5
    assert accuracy(module, batches) > 0.8
    assert accuracy(module, batches) == max(record.accuracy for record in history)
    assert not module.training
    right = total = 0
    for images, labels in batches.test():
        with torch.no_grad():
            right += int((module(images).argmax(1) == labels).sum())
        total += len(labels)
    assert right / total == accuracy(module, batches)


class Stopped(Exception):
    """What a test stops a training with."""


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
def test_an_interrupted_training_gives_what_it_would_have_given(
    error: type[BaseException],
    grouped: Network,
    batches: ImageBatches,
    tmp_path: Path,
) -> None:
    whole, history = trained(grouped, batches, tmp_path / "whole")  # type: ignore[misc]

    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == 1 and progress.step > 0:
            raise error

    with pytest.raises(error):
        trained(grouped, batches, tmp_path / "parts", progress=_late(stop))
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["checkpoint.pt"]
    module, again = trained(grouped, batches, tmp_path / "parts")  # type: ignore[misc]
    for name, value in whole.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert [r.loss for r in again] == [r.loss for r in history]


def _late(stop: object) -> object:
    """Call `stop` for the second epoch's first step, after the first has been saved."""
    calls = []

    def progress(state: TrainingProgress) -> None:
        calls.append(state)
        if len(state.history) == 1 and len(calls) > 2:
            stop(dataclasses.replace(state, epoch=1, step=1))  # type: ignore[operator]

    return progress


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(
    dtype: torch.dtype,
    grouped: Network,
    batches: ImageBatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a GPU does by default: 16 bits in convolutions, float32 in weights; resumed alike."""
    monkeypatch.setattr(trainer, "_half_precision", lambda device: dtype)
    recipe = Recipe(epochs=6, learning_rate=0.1, wire="int8")
    found = []

    def mixed(folder: Path, stop: int = 99) -> torch.nn.Module:
        def progress(state: TrainingProgress) -> None:
            if len(state.history) == stop and state.step < state.steps:
                raise Stopped

        module = to_torch(grouped, wire="int8")
        for part in wire_roundings(module):
            part.register_forward_hook(lambda part, args, result: found.append(result.dtype))
        calibrate_wires(module, batches.calibration(64))
        found.clear()
        train(module, batches, recipe, folder, mixed_precision=True, progress=progress)
        return module

    whole = mixed(tmp_path / "whole")
    assert dtype in found
    assert all(value.dtype == torch.float32 for value in whole.parameters())
    assert accuracy(whole, batches) > 0.7
    saved = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert bool(saved["state"]["scaler"]) == (dtype == torch.float16)  # bfloat16 needs none
    with pytest.raises(Stopped):
        mixed(tmp_path / "parts", stop=1)
    resumed = mixed(tmp_path / "parts").state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    module = to_torch(grouped)
    train(module, batches, Recipe(epochs=1), tmp_path)
    with pytest.raises(TrainingError, match="another training"):
        train(module, batches, Recipe(epochs=1, learning_rate=0.02), tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="delete it to start anew"):
        train(module, batches, Recipe(epochs=1), tmp_path)


@pytest.mark.parametrize(
    "change", ["graph", "start weights", "std", "teacher", "precision", "start"]
)
def test_what_makes_it_another_training(
    change: str, dense: Network, data: ImageData, tmp_path: Path
) -> None:
    def run(changed: str = "") -> None:
        shuffle = None if changed == "graph" else "stage"
        seed = int(changed == "start weights")
        std = (0.3,) if changed == "std" else STD
        train(
            to_torch(decouple(dense, shuffle=shuffle, weights="fresh", seed=seed)),
            ImageBatches(data, mean=MEAN, std=std, batch_size=256),
            Recipe(epochs=1),
            tmp_path,
            teacher=to_torch(decouple(dense, weights="fresh", seed=int(changed == "teacher"))),
            start="other" if changed == "start" else "",
            mixed_precision=changed == "precision",
        )

    run()
    run()  # it is there
    with pytest.raises(TrainingError, match="another training"):
        run(change)


def test_weights_that_differ_by_rounding_are_the_same_start(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    """A fit by least squares depends on the order of its sums."""
    train(to_torch(grouped), batches, Recipe(epochs=1), tmp_path)
    module = to_torch(grouped)
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1 + 1e-5 * torch.randn(value.shape))
    assert len(train(module, batches, Recipe(epochs=1), tmp_path)) == 1


def test_a_training_can_be_finished_early(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    def stop(state: TrainingProgress) -> None:
        if len(state.history) == 2:
            raise KeyboardInterrupt

    recipe = Recipe(epochs=50, learning_rate=0.1)
    with pytest.raises(TrainingError, match="no epoch was done"):
        train(to_torch(grouped), batches, recipe, tmp_path, finish=True)
    with pytest.raises(KeyboardInterrupt):
        train(to_torch(grouped), batches, recipe, tmp_path, progress=stop)
    module = to_torch(grouped)
    (first,) = train(module, batches, recipe, tmp_path, finish=True)
    assert accuracy(module, batches) == first.accuracy


def test_a_checkpoint_that_can_not_be_written(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="can't write the checkpoint"):
        train(to_torch(grouped), batches, Recipe(epochs=1), tmp_path / "file" / "folder")


def test_a_batch_of_one_value_can_not_be_normalised(data: ImageData, tmp_path: Path) -> None:
    net = load(
        torch.export.export(
            nn.Sequential(
                nn.Conv2d(3, 16, 8), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 4)
            ).eval(),
            (torch.zeros(1, 3, 8, 8),),
        ),
        name="one pixel",
    )
    single = ImageBatches(data, mean=MEAN, std=STD, batch_size=1)
    with pytest.raises(TrainingError, match="expected two images or more"):
        train(to_torch(net), single, Recipe(epochs=1), tmp_path)


def test_a_training_that_gets_no_better_stops(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=20, learning_rate=1e-12, patience=2)
    found = [r.accuracy for r in train(to_torch(grouped), batches, recipe, tmp_path)]
    assert len(found) == found.index(max(found)) + 3 < 20


def test_a_training_that_diverges_says_so(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(to_torch(grouped), batches, Recipe(epochs=3, learning_rate=1e30), tmp_path)


def test_the_distillation_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 7), torch.randn(5, 7), torch.randint(0, 7, (5,))
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    soft = (p * (p / q).log()).sum(1).mean()
    expected = 0.4 * functional.cross_entropy(student, labels) + 0.6 * 9 * soft
    found = distillation_loss(student, teacher, labels, Distillation(temperature=3, weight=0.6))
    torch.testing.assert_close(found, expected)


def test_a_student_follows_its_teacher(
    dense: Network, grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    """With the teacher alone to learn from, answers come near to the teacher's, labels or not."""
    recipe = Recipe(
        epochs=6, learning_rate=0.05, distillation=Distillation(temperature=2.0, weight=1.0)
    )
    student, teacher = to_torch(grouped), to_torch(dense)
    train(teacher, batches, RECIPE, tmp_path / "teacher")

    def distance() -> float:
        total = 0.0
        with torch.no_grad():
            for images, _ in batches.test():
                answers = [module(images).softmax(1) for module in (student, teacher)]
                total += float((answers[0] - answers[1]).square().mean())
        return total

    before = distance()
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(student, batches, recipe, tmp_path, teacher=teacher)
    assert distance() < 0.5 * before
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    with pytest.raises(TrainingError, match="needs a teacher"):
        train(student, batches, recipe, tmp_path / "other")


def test_learning_rates() -> None:
    step = Recipe()
    assert [step.rate(e) for e in (0, 29.9, 30, 60)] == pytest.approx([0.01, 0.01, 0.001, 0.0001])
    cosine = Recipe(epochs=12, schedule="cosine", warmup_epochs=2, learning_rate=1.0)
    assert [cosine.rate(e) for e in (1, 2, 7, 12)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"learning_rate": -1.0}, "above 0"),
        ({"learning_rate": math.nan}, "above 0"),
        ({"schedule": "linear"}, "'step' or 'cosine'"),
        ({"wire": "int4"}, "wire 'int4'"),
        ({"warmup_epochs": 100}, "warm-up"),
        ({"patience": 0}, "patience"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_recipes_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        Recipe(**options)  # type: ignore[arg-type]
