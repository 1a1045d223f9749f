# SPDX-License-Identifier: Apache-2.0
"""Train a network by a recipe, from images to a report."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, fx

from decnn_tvm.errors import TrainingError
from decnn_tvm.frontend import save_onnx
from decnn_tvm.network import Network
from decnn_tvm.training.answers import accuracy
from decnn_tvm.training.batches import Batches
from decnn_tvm.training.learning_curve import draw_learning_curve
from decnn_tvm.training.recipe import Recipe
from decnn_tvm.training.report import FinetuneReport, network_cost, write_report
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
    progress: ProgressCallback | None = None,
) -> tuple[Network, FinetuneReport]:
    """Train a network; write checkpoint, model, report and learning curve to a folder.

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
    progress : callable, optional
        Told of every step.

    Returns
    -------
    Network, FinetuneReport
        The network with the weights that the recipe keeps.

    Raises
    ------
    TrainingError
        See `decnn_tvm.training.trainer.train`.
    """
    _check_output(network)
    path = Path(folder)
    images = batches.calibration(CALIBRATION_IMAGES).to(device)
    module = _placed(to_torch(network, dropout=recipe.dropout, wire=recipe.wire), device)
    calibrate_wires(module, images)
    before = accuracy(module, batches)
    guide = None if teacher is None else _placed(to_torch(teacher), device)
    history = train(module, batches, recipe, path, teacher=guide, start=start, progress=progress)
    trained = from_torch(network, module)
    reference = None if guide is None else accuracy(guide, batches)
    report = FinetuneReport(
        network=network.name,
        groups=network.groups,
        start=start,
        accuracy_before=before,
        accuracy=accuracy(module, batches),
        teacher_accuracy=reference,
        wire_accuracy=wire_accuracies(trained, batches, images, device=device),
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
    network: Network, batches: Batches, images: Tensor, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the accuracy of a network by the wire of its exchanges.

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
    """
    found = {}
    for wire in WIRES:
        module = _placed(to_torch(network, wire=wire), device)
        calibrate_wires(module, images)
        found[str(wire)] = accuracy(module, batches)
    return found


def _placed(module: fx.GraphModule, device: torch.device | str) -> fx.GraphModule:
    module.to(device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _check_output(network: Network) -> None:
    shape = network.outputs[0].shape
    if len(network.inputs) != 1 or len(shape) < 2:
        raise TrainingError(
            f"network {network.name!r} has {len(network.inputs)} inputs and an output of shape "
            f"{shape}: the recipe is for classifiers, one image in and one number for each class "
            "out; use to_torch and a loop of your own"
        )


def _device_name(device: torch.device | str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
