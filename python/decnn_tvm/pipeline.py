# SPDX-License-Identifier: Apache-2.0
"""The order of the passes from a canonical network to stage functions."""

from __future__ import annotations

import tvm
from tvm import relax

from decnn_tvm.passes.canonicalize_channel_selection import CanonicalizeChannelSelection
from decnn_tvm.passes.fold_batch_norm import FoldBatchNorm
from decnn_tvm.passes.fold_weight_transforms import FoldWeightTransforms
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.propagate_placement import PropagatePlacement


def preparation_passes() -> list[tvm.transform.Pass]:
    """Return the passes that leave convolutions, biases and channel selections in one form."""
    return [
        LiftWeights(),
        relax.transform.CanonicalizeBindings(),
        FoldWeightTransforms(),
        FoldBatchNorm(),
        CanonicalizeChannelSelection(),
    ]


def spreading_passes(groups: int | None) -> list[tvm.transform.Pass]:
    """Return the passes that spread a network over channel groups; `SplitStages` comes next."""
    return [*preparation_passes(), PropagatePlacement(groups=groups)]
