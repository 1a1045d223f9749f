# SPDX-License-Identifier: Apache-2.0
"""Spread a network over strips of rows: infer every placement, mark every movement.

Every device holds all weights of the convolutions and computes its rows of every feature map; the
rows that windows need of its neighbours are exchanged before each layer. Dense layers are split by
input features. The rules are in `decnn_tvm.passes.strip_rules`; what is written into the function
is in `decnn_tvm.passes.movement_marker`. Exact: sums over whole feature maps alone change the order
of their terms. Runs where `PropagatePlacement` would.
"""

from __future__ import annotations

import tvm

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.movement_marker import with_movements
from decnn_tvm.passes.placement_inference import Inference, infer_placement
from decnn_tvm.passes.strip_rules import strip_rule_for
from decnn_tvm.passes.weights import static_shape
from decnn_tvm.plan import PAD, Host, Strips, held


@tvm.transform.module_pass(opt_level=0, name="decnn.PropagateRows")
class PropagateRows:
    """Infer the placement of every tensor of ``main`` over strips of rows.

    Parameters
    ----------
    strips : int
        How many strips, at least 1.

    Raises
    ------
    PartitionError
        Less than one strip, or more than the input has rows for.
    """

    def __init__(self, *, strips: int) -> None:
        if strips < 1:
            raise PartitionError(f"PropagateRows: strips={strips}; expected at least 1.")
        self.strips = strips

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        lifted = LiftWeights()(mod)  # type: ignore[operator]
        found = infer_placement(lifted["main"], self.strips, {}, strip_rule_for)
        _check_inputs(found)
        return with_movements(lifted, found, strategy="rows")


def _check_inputs(found: Inference) -> None:
    """Raise where a device would get nothing of an input, so that nothing told it to begin."""
    for var, target in found.movements:
        if found.placements[var] != Host() or not isinstance(target, Strips):
            continue
        rows = static_shape(var)[target.axis]
        used = [g for g in range(found.groups) if {*held(target, rows, (g,))} != {PAD}]
        if len(used) < found.groups:
            raise PartitionError(
                f"PropagateRows: {found.groups} strips of the {rows} rows of {var.name!r}; only "
                f"{len(used)} would hold any. Use at most {len(used)} workers."
            )
