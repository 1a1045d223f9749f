# SPDX-License-Identifier: Apache-2.0
"""What ``decnn run`` shows and writes of the results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.tables import print_devices, print_table, shape_text
from decnn_tvm.errors import InputError

if TYPE_CHECKING:
    from decnn_tvm.cli.samples import Array
    from decnn_tvm.runtime import Session
    from decnn_tvm.runtime.statistics import DeviceStats

TOP = 3
"""Largest values of an output that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of a run.

    Attributes
    ----------
    names : sequence of str
        What the samples are called.
    outputs : list of mapping
        From output names to arrays, for each sample.
    seconds : float
        What all took.
    devices : list of DeviceStats
        What each worker has done.
    """

    names: Sequence[str]
    outputs: list[dict[str, Array]]
    seconds: float
    devices: list[DeviceStats]

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        samples = [
            {
                "source": name,
                "outputs": {k: {"shape": list(a.shape), "top": _top(a)} for k, a in o.items()},
            }
            for name, o in zip(self.names, self.outputs, strict=True)
        ]
        return {
            "samples": samples,
            "seconds": self.seconds,
            "samples_per_second": len(samples) / self.seconds,
            "devices": [dataclasses.asdict(device) for device in self.devices],
        }

    def show(self) -> None:
        """Print the tables."""
        rows = [
            (name, key, shape_text(a.shape), ", ".join(f"{i}: {v:.4g}" for i, v in _top(a)))
            for name, outputs in zip(self.names, self.outputs, strict=True)
            for key, a in outputs.items()
        ]
        print_table("results", ("sample", "output", "shape", "largest values"), rows, text=4)
        print_devices(self.devices)
        count, rate = len(self.outputs), len(self.outputs) / self.seconds
        print(f"{count} samples in {self.seconds:.2f} s: {rate:.1f} per second")


def save_outputs(path: Path, outputs: Sequence[dict[str, Array]]) -> None:
    """Write each output of all samples as one array, its first axis the samples."""
    import numpy as np

    stacked: dict[str, Any] = {n: np.stack([o[n] for o in outputs]) for n in outputs[0]}
    try:
        with path.open("wb") as file:
            np.savez(file, **stacked)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}).") from error


def write_trace(path: Path, session: Session, devices: Sequence[DeviceStats]) -> None:
    """Write a session's timeline for Chrome's and Perfetto's viewers."""
    from decnn_tvm.runtime.trace import KINDS, chrome_trace

    names = [device.name for device in devices]
    try:
        path.write_text(json.dumps(chrome_trace(session.timeline(kinds=KINDS), names)))
    except OSError as error:
        raise InputError(f"--trace {path}: can't be written ({error.strerror}).") from error


def _top(array: Array) -> list[tuple[int, float]]:
    """Return positions and values of the largest elements."""
    flat = array.ravel()
    return [(int(i), float(flat[i])) for i in flat.argsort()[::-1][:TOP]]
