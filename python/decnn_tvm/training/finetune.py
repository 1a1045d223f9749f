# SPDX-License-Identifier: Apache-2.0
"""Train a network by a recipe, from images to a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx

from decnn_tvm.frontend import save_onnx
from decnn_tvm.network import Network
from decnn_tvm.training.answers import accuracy
from decnn_tvm.training.batches import Batches
from decnn_tvm.training.exchanges import exchanges
from decnn_tvm.training.learning_curve import draw_learning_curve
from decnn_tvm.training.recipe import Recipe
from decnn_tvm.training.report import FinetuneReport, network_cost, write_report
from decnn_tvm.training.request_checks import check_batches, check_request, check_teacher
from decnn_tvm.training.torch_module import to_torch
from decnn_tvm.training.trained_weights import from_torch
from decnn_tvm.training.trainer import ProgressCallback, train
from decnn_tvm.training.wire_rounding import WIRES, calibrate_wires

CALIBRATION_IMAGES = 256
TRAINED = "trained.onnx"


def train_network(
    network: Network,
    batches: Batches,
    folder: str | Path,
    recipe: Recipe,
    *,
    teacher: Network | None = None,
    start: str = "given",
    device: torch.device | str = "cpu",
    mixed_precision: bool | None = None,
    finish: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[Network, FinetuneReport]:
    """Train a network; write checkpoint, model, report and learning curve to a folder.

    A softmax at the network's end is left out meanwhile: the loss has its own.

    Parameters
    ----------
    network : Network
        What to train; its weights are the start.
    batches : Batches
        Images and labels, on `device`.
    folder : str or Path
        Where all is written, and where a training that was interrupted is found.
    recipe : Recipe
        How.
    teacher : Network, optional
        The dense network; needed for distillation, else for comparison alone.
    start : str
        What the weights are, for the report.
    device : torch.device or str
        ``"cpu"``, or a GPU, where computation is in mixed precision.
    mixed_precision, finish
        See `decnn_tvm.training.trainer.train`.
    progress : callable, optional
        Told of every step.

    Returns
    -------
    Network, FinetuneReport
        The network with the weights that the recipe keeps.

    Raises
    ------
    TrainingError
        Network, teacher, images and labels do not go together, or what
        `decnn_tvm.training.trainer.train` raises.
    """
    check_request(network, recipe)
    check_batches(network, batches, device)
    if teacher is not None:
        check_teacher(network, teacher)
    path = Path(folder)
    images = batches.calibration(CALIBRATION_IMAGES).to(device)
    module = to_torch(network, dropout=recipe.dropout, wire=recipe.wire, logits=True)
    module = _placed(module, device)
    calibrate_wires(module, images)
    before = accuracy(module, batches)
    guide = None if teacher is None else _placed(to_torch(teacher, logits=True), device)
    history = train(
        module,
        batches,
        recipe,
        path,
        teacher=guide,
        start=start,
        mixed_precision=mixed_precision,
        finish=finish,
        progress=progress,
    )
    trained = from_torch(network, module)
    reference = None if guide is None else accuracy(guide, batches)
    last = max(h.accuracy for h in history) if recipe.keep_best else history[-1].accuracy
    report = FinetuneReport(
        network=network.name,
        groups=network.groups,
        start=start,
        accuracy_before=before,
        accuracy=last,
        teacher_accuracy=reference,
        # What an int8 wire is at the end are the ranges of a calibration, not those of training.
        wire_accuracy=wire_accuracies(
            trained,
            batches,
            images,
            device=device,
            known={} if recipe.wire == "int8" else {recipe.wire: last},
        ),
        cost=network_cost(trained),
        recipe=recipe,
        history=history,
        device=_device_name(device),
    )
    save_onnx(trained, path / TRAINED)
    write_report(report, path)
    draw_learning_curve(history, path / "learning_curve.png", reference=reference)
    return trained, report


def wire_accuracies(
    network: Network,
    batches: Batches,
    images: Tensor,
    *,
    device: torch.device | str = "cpu",
    known: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the accuracy of a network by the wire of its exchanges; float32 alone without any.

    Parameters
    ----------
    network : Network
        Trained.
    batches : Batches
        Test images.
    images : Tensor
        Images that the scales of int8 are found on.
    device : torch.device or str
        Where to compute.
    known : mapping from wire to float, optional
        What need not be measured.
    """
    found = dict(known or {})
    for wire in WIRES if exchanges(network) else WIRES[:1]:
        if wire in found:
            continue
        module = _placed(to_torch(network, wire=wire), device)
        calibrate_wires(module, images)
        found[wire] = accuracy(module, batches)
    return {wire: found[wire] for wire in WIRES if wire in found}


def _placed(module: fx.GraphModule, device: torch.device | str) -> fx.GraphModule:
    module.to(device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _device_name(device: torch.device | str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
