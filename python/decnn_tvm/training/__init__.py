# SPDX-License-Identifier: Apache-2.0
"""Train decoupled networks with PyTorch; needs the extra ``train``."""

from decnn_tvm.training.calibrated_decoupling import decouple_calibrated
from decnn_tvm.training.folded_norms import restore_batch_norms
from decnn_tvm.training.torch_module import from_torch, to_torch

__all__ = ["decouple_calibrated", "from_torch", "restore_batch_norms", "to_torch"]
