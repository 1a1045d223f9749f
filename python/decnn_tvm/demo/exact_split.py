# SPDX-License-Identifier: Apache-2.0
"""The first half of the demo: a trained network split over local workers, answers unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decnn_tvm.compiler import compile_network
from decnn_tvm.demo.data import Array, opennsfw_sample, trained_model
from decnn_tvm.frontend import load
from decnn_tvm.package_writer import Progress
from decnn_tvm.runtime import LocalCluster
from decnn_tvm.testing.equality import all_reference_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An output of the split network and the same of ONNX Runtime, over all photographs.

    Attributes
    ----------
    output : str
        Its name.
    ours, reference : tuple of arrays
        One for each photograph.
    """

    output: str
    ours: tuple[Array, ...]
    reference: tuple[Array, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """Largest error of each photograph, relative to the reference's largest magnitude."""
        magnitude = max(float(np.abs(array).max()) for array in self.reference)
        pairs = zip(self.ours, self.reference, strict=True)
        return tuple(float(np.abs(a - b).max()) / magnitude for a, b in pairs)

    @property
    def error(self) -> float:
        """Largest of the `errors`; NaN if an output holds one."""
        return float(np.max(self.errors))

    @property
    def closest(self) -> float:
        """Distance of the two most similar reference answers, in the unit of `errors`.

        An error this large could pass for the answer to another photograph.
        """
        magnitude = max(float(np.abs(array).max()) for array in self.reference)
        pairs = itertools.combinations(self.reference, 2)
        return min(float(np.abs(a - b).max()) for a, b in pairs) / magnitude


def split_exactly(
    photographs: Sequence[Path], folder: Path, *, workers: int = 4, progress: Progress | None = None
) -> list[Comparison]:
    """Compile opennsfw for `workers` local workers, run it, and compare with ONNX Runtime.

    Parameters
    ----------
    photographs : sequence of Path
        Images.
    folder : Path
        Where the package goes.
    workers : int
        Worker processes.
    progress : callable, optional
        Told of the compiler's steps.

    Returns
    -------
    list of Comparison
        One for each output: probabilities and logits.
    """
    model = trained_model()
    samples = [opennsfw_sample(path) for path in photographs]
    network = load(model, name="opennsfw")
    package = compile_network(network, folder, workers=workers, progress=progress)
    with LocalCluster(workers) as cluster, cluster.deploy(package) as session:
        results = list(session.stream(samples))
    reference = all_reference_outputs(model, samples)
    comparisons = []
    for index, name in enumerate(package.plan.outputs):
        ours = tuple(r[name] if isinstance(r, dict) else r for r in results)
        theirs = tuple(outputs[index] for outputs in reference)
        comparisons.append(Comparison(output=name, ours=ours, reference=theirs))
    return comparisons
