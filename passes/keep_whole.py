# SPDX-License-Identifier: Apache-2.0
"""Leave a network whole: every device computes all of it.

The inputs go from the coordinator to a device, the outputs come back, and nothing moves between.
With one group that is a network on one device; with several, groups are the turns of replicas, each
of which computes samples of its own. What is written into the function is in
`decnn_tvm.passes.movement_marker`. Runs where `PropagatePlacement` would.
"""

from __future__ import annotations

import tvm

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.movement_marker import with_movements
from decnn_tvm.passes.placement_inference import infer_placement


@tvm.transform.module_pass(opt_level=0, name="decnn.KeepWhole")
class KeepWhole:
    """Place every tensor of ``main`` whole on each device.

    Parameters
    ----------
    turns : int, optional
        Turns of replicas, at least 1; one device computes all by default.

    Raises
    ------
    PartitionError
        Less than one turn.
    """

    def __init__(self, *, turns: int | None = None) -> None:
        if turns is not None and turns < 1:
            raise PartitionError(f"KeepWhole: turns={turns}; expected at least 1.")
        self.turns = turns

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        lifted = LiftWeights()(mod)  # type: ignore[operator]
        found = infer_placement(lifted["main"], 1, {})
        if self.turns is None:
            return with_movements(lifted, found, strategy="single")
        found.groups = self.turns
        return with_movements(lifted, found, strategy="replicas")
