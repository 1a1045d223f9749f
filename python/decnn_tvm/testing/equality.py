# SPDX-License-Identifier: Apache-2.0
"""Compare a network's outputs with an independent reference, strictly.

Two runs agree if the largest error is at most `tolerance` of the reference's largest magnitude.
That proves something only where different inputs give different outputs: a network whose logits
hardly depend on its input would pass with any mistake. So the reference must tell its inputs apart
by 100 times the tolerance, or the comparison itself fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
_DISTINCTION = 100.0  # how many tolerances apart the outputs of two inputs must be


def random_inputs(shape: Sequence[int], count: int = 4, *, seed: int = 0) -> list[Array]:
    """Return `count` float32 arrays of `shape`, of normal deviates.

    Images (N, C, H, W) differ in colour too, a normal deviate for each channel: what is noise alone
    averages out in a deep network, whose answers would be all alike.
    """
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        sample = random.standard_normal(tuple(shape))
        if len(shape) == 4:
            sample += random.standard_normal((*shape[:2], 1, 1))
        samples.append(sample.astype("float32"))
    return samples


def reference_outputs(
    model: onnx.ModelProto | str | Path, inputs: Sequence[Array | Mapping[str, Array]]
) -> list[Array]:
    """Run a model in ONNX Runtime on one thread.

    Parameters
    ----------
    model : ModelProto or path
        The network.
    inputs : sequence of arrays, or of mappings from input name to array
        One item per run.

    Returns
    -------
    list of arrays
        The first output of each run; see `all_reference_outputs` for networks with several.
    """
    return [outputs[0] for outputs in all_reference_outputs(model, inputs)]


def all_reference_outputs(
    model: onnx.ModelProto | str | Path, inputs: Sequence[Array | Mapping[str, Array]]
) -> list[list[Array]]:
    """Run a model in ONNX Runtime on one thread; return all outputs of each run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feeds = [dict(x) if isinstance(x, Mapping) else {name: x} for x in inputs]
    return [session.run(None, feed) for feed in feeds]


def assert_logits_match(
    ours: Sequence[Array], reference: Sequence[Array], tolerance: float = 1e-4
) -> None:
    """Assert that the outputs for several inputs equal the reference's.

    Parameters
    ----------
    ours, reference : sequence of arrays
        One output per input, of equal shapes; at least two.
    tolerance : float
        Largest error allowed, relative to the largest magnitude in `reference`.

    Raises
    ------
    AssertionError
        If an output is off, not finite or of another shape, or if two reference outputs are closer
        than 100 tolerances, so that the comparison could not see a mistake.
    """
    assert len(ours) == len(reference) >= 2, f"{len(ours)} outputs, {len(reference)} references"
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.shape == theirs.shape, f"shape {mine.shape}, the reference has {theirs.shape}"
    assert_distinct(reference, tolerance)
    magnitude = _magnitude(reference)
    for index, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
        assert np.isfinite(mine).all(), f"output {index} holds values that are not finite"
        error = float(np.abs(mine - theirs).max()) / magnitude
        assert error <= tolerance, f"output {index} is off by {error:.2e} of the largest magnitude"


def assert_distinct(reference: Sequence[Array], tolerance: float = 1e-4) -> None:
    """Assert that any two of these outputs differ by 100 tolerances of the largest magnitude."""
    needed = _DISTINCTION * tolerance * _magnitude(reference)
    for (i, a), (j, b) in itertools.combinations(enumerate(reference), 2):
        distance = float(np.abs(a - b).max())
        assert distance >= needed, (
            f"reference outputs {i} and {j} differ by {distance:.2e}, less than {needed:.2e}: "
            "this comparison could not see a mistake; use inputs or weights that differ more"
        )


def _magnitude(arrays: Sequence[Array]) -> float:
    largest = max(float(np.abs(array).max()) for array in arrays)
    assert np.isfinite(largest) and largest > 0, f"largest reference magnitude {largest}"
    return largest
