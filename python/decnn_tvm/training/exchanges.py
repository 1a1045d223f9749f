# SPDX-License-Identifier: Apache-2.0
"""What devices exchange of a network: which tensors, and how many bytes.

Both follow from the placements that the compiler itself infers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tvm
from tvm import relax

from decnn_tvm.assignment import assign_groups
from decnn_tvm.compiler import split_network
from decnn_tvm.network import Network
from decnn_tvm.passes.channel_order import infer_with_channel_order
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.passes.value_ranges import is_non_negative
from decnn_tvm.passes.weights import static_shape
from decnn_tvm.passes.wire_encoding import WIRES
from decnn_tvm.pipeline import preparation_passes
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.plan_placements import narrow_axis
from decnn_tvm.planning.splits import with_wire
from decnn_tvm.transfers import HOST, payload_bytes, transfers


class ExchangePoint(NamedTuple):
    """The axis of an exchanged tensor's channels, and whether an element can be negative."""

    axis: int
    signed: bool


def exchanges(network: Network) -> bool:
    """Tell whether a network is decoupled, so that its exchanges are known."""
    return network.groups is not None and network.groups > 1


def exchange_points(network: Network, groups: int | None = None) -> dict[relax.Var, ExchangePoint]:
    """Return the variables of the network that travel rounded where it is split by channels.

    Partial sums, the inputs and the outputs travel in full (`narrow_axis`).

    Parameters
    ----------
    network : Network
        Dense or decoupled, batch norms not folded.
    groups : int, optional
        Channel groups; needed where the network is dense.
    """
    count = groups or network.groups
    if count is None or count == 1:
        return {}
    prepared = tvm.transform.Sequential(preparation_passes())(network.module)["main"]
    found = infer_with_channel_order(prepared, count)
    values = relax.analysis.get_var2val(prepared)
    moved = {
        str(var.name): ExchangePoint(axis, not is_non_negative(var, values))
        for var, target in found.movements
        if (axis := narrow_axis(found.placements[var], target, len(static_shape(var)))) is not None
    }
    bound = [b.var for block in network.function.body.blocks for b in block.bindings]
    # Passes keep the names of what they keep, so a tensor is found again by its name.
    points = {var: moved[str(var.name)] for var in bound if str(var.name) in moved}
    assert len(points) == len(moved), sorted(set(moved) - {str(var.name) for var in points})
    return points


def exchange_bytes(network: Network) -> dict[str, int]:
    """Return, by wire, the bytes that devices send each other in one run, all of them together.

    With one channel group on each device; scatter of the input and collection of the output, which
    are the coordinator's, do not count.
    """
    groups = network.groups
    if groups is None or not exchanges(network):
        return dict.fromkeys(WIRES, 0)
    (module,) = split_network(network, groups, None, False, "float32").values()
    plan = plan_of(module)
    assignment = assign_groups(plan, groups)
    return {wire: _exchanged(with_wire(plan, wire), assignment) for wire in WIRES}


def _exchanged(plan: Plan, assignment: Sequence[Indices]) -> int:
    return sum(
        payload_bytes(plan.value(movement.source), transfer)
        for movement in plan.movements
        for transfer in transfers(plan, movement, assignment)
        if HOST not in (transfer.source, transfer.target) and transfer.source != transfer.target
    )
