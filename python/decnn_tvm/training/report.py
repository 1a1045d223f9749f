# SPDX-License-Identifier: Apache-2.0
"""What a training came to: accuracy before and after, cost, exchanges, the effect of wires."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import TrainingError
from decnn_tvm.inspection import inspect_network
from decnn_tvm.network import Network
from decnn_tvm.training.exchanges import exchange_bytes
from decnn_tvm.training.recipe import Recipe
from decnn_tvm.training.trainer import EpochRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """Multiply-accumulates and parameters, and the bytes that devices send each other an image.

    For one image, with a device for each channel group; bytes by wire.
    """

    macs: int
    parameters: int
    exchange_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneReport:
    """The end of a training.

    Attributes
    ----------
    network : str
        Its name.
    groups : int or None
        Channel groups.
    start : str
        What the weights were at first.
    accuracy_before, accuracy : float
        Share of test images ranked right, 0 to 1, before and after training.
    teacher_accuracy : float or None
        Of the dense network, where one is given.
    wire_accuracy : dict of str to float
        After training, by the wire of exchanges.
    cost : NetworkCost
        Of the trained network.
    recipe : Recipe
        How it was trained.
    history : tuple of EpochRecord
        Every epoch.
    device : str
        Where it was trained.
    """

    network: str
    groups: int | None
    start: str
    accuracy_before: float
    accuracy: float
    teacher_accuracy: float | None
    wire_accuracy: Mapping[str, float]
    cost: NetworkCost
    recipe: Recipe
    history: tuple[EpochRecord, ...]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON data."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """Return the figures as lines for people."""
        lines = [
            f"{self.network}: top-1 {self.accuracy:.2%} after {len(self.history)} epochs on "
            f"{self.device}, {self.accuracy_before:.2%} before ({self.start} weights)"
        ]
        if self.teacher_accuracy is not None:
            lines.append(f"dense network: {self.teacher_accuracy:.2%}")
        lines.append(
            f"{self.cost.macs / 1e6:.1f} M MACs, {self.cost.parameters / 1e6:.3f} M parameters"
        )
        for wire, found in self.wire_accuracy.items() if self.groups else ():
            sent = self.cost.exchange_bytes[wire] / 1e3
            lines.append(f"exchanges as {wire}: top-1 {found:.2%}, {sent:.1f} kB an image")
        return "\n".join(lines)


def network_cost(network: Network) -> NetworkCost:
    """Return what a network costs to run."""
    inspection = inspect_network(network)
    batch = network.inputs[0].shape[0]
    return NetworkCost(
        macs=inspection.macs // batch,
        parameters=inspection.parameters,
        exchange_bytes={wire: sent // batch for wire, sent in exchange_bytes(network).items()},
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or leave the one that is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        os.replace(draft, path)
    except OSError as error:
        raise TrainingError(f"can't write {path}: {error}") from error


def write_report(report: FinetuneReport, folder: Path) -> None:
    """Write ``report.json`` and ``report.txt``."""
    write_text(folder / "report.json", json.dumps(report.to_dict(), indent=2) + "\n")
    write_text(folder / "report.txt", report.to_text() + "\n")
