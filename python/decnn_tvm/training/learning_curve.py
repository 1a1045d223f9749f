# SPDX-License-Identifier: Apache-2.0
"""A picture of how a training went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decnn_tvm.errors import TrainingError
from decnn_tvm.training.trainer import EpochRecord


def draw_learning_curve(
    history: Sequence[EpochRecord], path: str | Path, *, reference: float | None = None
) -> None:
    """Draw loss and accuracies by epoch into a PNG file.

    Parameters
    ----------
    history : sequence of EpochRecord
        The epochs.
    path : str or Path
        The file.
    reference : float, optional
        Accuracy of the dense network, as a line.

    Raises
    ------
    TrainingError
        The file can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    left.plot(epochs, [record.loss for record in history], marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(epochs, [100 * record.train_accuracy for record in history], label="training images")
    right.plot(epochs, [100 * record.accuracy for record in history], label="test images")
    if reference is not None:
        right.axhline(100 * reference, linestyle="--", color="grey", label="dense network")
    right.set(xlabel="epoch", ylabel="top-1, %")
    right.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise TrainingError(f"can't write the learning curve {path}: {error}") from error
