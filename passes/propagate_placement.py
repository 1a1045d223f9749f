# SPDX-License-Identifier: Apache-2.0
"""Spread a network over channel groups: infer every placement, mark every movement.

What is written into the function is in `decnn_tvm.passes.movement_marker`.

Runs on named weights, after `FoldBatchNorm` and `CanonicalizeChannelSelection`, before
`SplitStages`. Batch norms that are left have no rule and would run replicated.
"""

from __future__ import annotations

import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.channel_order import infer_with_channel_order
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.movement_marker import with_movements


@tvm.transform.module_pass(opt_level=0, name="decnn.PropagatePlacement")
class PropagatePlacement:
    """Infer the placement of every tensor of ``main`` over channel groups.

    Parameters
    ----------
    groups : int, optional
        Number of channel groups; by default that of the decoupled network.

    Raises
    ------
    PartitionError
        No number of groups, or another than a decoupled network has.
    """

    def __init__(self, *, groups: int | None = None) -> None:
        self.groups = groups

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        lifted = LiftWeights()(mod)  # type: ignore[operator]
        groups, decoupled = _group_count(lifted["main"], self.groups)
        found = infer_with_channel_order(lifted["main"], groups)
        return with_movements(lifted, found, decoupled=decoupled)


def _group_count(func: relax.Function, asked: int | None) -> tuple[int, bool]:
    decoupled = func.attrs is not None and "decnn.groups" in func.attrs
    own = int(func.attrs["decnn.groups"]) if decoupled else None
    groups = own if asked is None else asked
    if groups is None:
        raise PartitionError(
            "PropagatePlacement: the network is not decoupled, so the number of channel groups "
            "must be given. Pass groups=N for N devices."
        )
    if own is not None and groups != own:
        raise PartitionError(
            f"PropagatePlacement: groups={asked}, but the network is decoupled into G={own} "
            "channel groups. Leave groups out, or decouple it anew."
        )
    if groups < 1:
        raise PartitionError(f"PropagatePlacement: groups={groups}; expected at least 1.")
    return groups, decoupled
