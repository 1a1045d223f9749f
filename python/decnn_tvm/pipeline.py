# SPDX-License-Identifier: Apache-2.0
"""The order of the passes from a canonical network to stage functions."""

from __future__ import annotations

import tvm
from tvm import relax

from decnn_tvm.passes.canonicalize_channel_selection import CanonicalizeChannelSelection
from decnn_tvm.passes.cut_pipeline import CutPipeline
from decnn_tvm.passes.fold_batch_norm import FoldBatchNorm
from decnn_tvm.passes.fold_weight_transforms import FoldWeightTransforms
from decnn_tvm.passes.keep_whole import KeepWhole
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.propagate_placement import PropagatePlacement
from decnn_tvm.passes.propagate_rows import PropagateRows
from decnn_tvm.plan import Strategy


def preparation_passes() -> list[tvm.transform.Pass]:
    """Return the passes that leave convolutions, biases and channel selections in one form."""
    return [
        LiftWeights(),
        relax.transform.CanonicalizeBindings(),
        FoldWeightTransforms(),
        FoldBatchNorm(),
        CanonicalizeChannelSelection(),
    ]


def spreading_passes(
    groups: int | None, strategy: Strategy = "channels"
) -> list[tvm.transform.Pass]:
    """Return the passes that spread a network over groups; `SplitStages` comes next.

    `groups` may be None for a decoupled network that is split by channels.
    """
    return [*preparation_passes(), _spreading_pass(groups, strategy)]


def _spreading_pass(groups: int | None, strategy: Strategy) -> tvm.transform.Pass:
    if strategy == "channels":
        return PropagatePlacement(groups=groups)
    if strategy == "single":
        return KeepWhole()
    assert groups is not None
    if strategy == "rows":
        return PropagateRows(strips=groups)
    return CutPipeline(stages=groups) if strategy == "pipeline" else KeepWhole(turns=groups)
