# SPDX-License-Identifier: Apache-2.0
"""What PyTorch says of a training step that can't be, in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from decnn_tvm.errors import TrainingError


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise `TrainingError` for batches that are too large for a GPU or too small to normalise."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            "the GPU has too little memory for a step: give smaller batches, or device='cpu' "
            f"({str(error).splitlines()[0]})"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"a batch is too small for batch norms ({error}): expected two images or more"
        ) from error
