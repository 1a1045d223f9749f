# SPDX-License-Identifier: Apache-2.0
"""Public `tvm.transform` passes: each works on a plain module of TVM's own importers."""

from __future__ import annotations

import tvm_ffi

from decnn_tvm import errors
from decnn_tvm.passes.bind_weights import BindWeights
from decnn_tvm.passes.canonicalize_channel_selection import CanonicalizeChannelSelection
from decnn_tvm.passes.cut_pipeline import CutPipeline
from decnn_tvm.passes.decouple_convolutions import DecoupleConvolutions
from decnn_tvm.passes.fold_batch_norm import FoldBatchNorm
from decnn_tvm.passes.fold_weight_transforms import FoldWeightTransforms
from decnn_tvm.passes.insert_channel_shuffle import InsertChannelShuffle
from decnn_tvm.passes.keep_whole import KeepWhole
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.normalize_images import NormalizeImages
from decnn_tvm.passes.propagate_placement import PropagatePlacement
from decnn_tvm.passes.propagate_rows import PropagateRows
from decnn_tvm.passes.split_rows import SplitRows
from decnn_tvm.passes.split_stages import SplitStages
from decnn_tvm.passes.use_blocked_layouts import UseBlockedLayouts
from decnn_tvm.passes.widen_channels import WidenChannels

__all__ = [
    "BindWeights",
    "CanonicalizeChannelSelection",
    "CutPipeline",
    "DecoupleConvolutions",
    "FoldBatchNorm",
    "FoldWeightTransforms",
    "InsertChannelShuffle",
    "KeepWhole",
    "LiftWeights",
    "NormalizeImages",
    "PropagatePlacement",
    "PropagateRows",
    "SplitRows",
    "SplitStages",
    "UseBlockedLayouts",
    "WidenChannels",
]

# A pass runs behind TVM's foreign-function layer, which gives back the errors that it knows.
for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.DecnnError):
        tvm_ffi.register_error(_error)
