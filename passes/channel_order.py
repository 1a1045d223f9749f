# SPDX-License-Identifier: Apache-2.0
"""Choose the local channel order of each class of tied tensors.

A channel shuffle sends each receiver every G-th channel of a group. If a group keeps its channels
sorted by receiver, every message is one contiguous slice and nothing is packed. That order is
absorbed by the weights around the class: all tensors tied by addition, activation, pooling or
depthwise convolution share it, and the convolutions at its border produce and read it (their O and
I axes). Where two movements of one class want different orders, the first one wins and the other
copies more runs.
"""

from __future__ import annotations

import logging

import numpy as np
from tvm import relax

from decnn_tvm.passes.placement_inference import (
    Inference,
    arguments,
    bindings_of,
    infer_placement,
)
from decnn_tvm.passes.weights import is_call, static_shape
from decnn_tvm.placement.ownership import Groups, rename
from decnn_tvm.plan import PAD, Placement, Sharded

logger = logging.getLogger(__name__)


def infer_with_channel_order(func: relax.Function, groups: int) -> Inference:
    """Infer placements twice: in natural order, then in the order that its movements want."""
    natural = infer_placement(func, groups, {})
    tracer = _Tracer(func, natural)
    for var, target in natural.movements:
        source = natural.placements[var]
        if isinstance(source, Sharded):
            tracer.demand(var, _by_receiver(source, target))
    ordered = infer_placement(func, groups, tracer.preferred)
    logger.debug("channel order: %s before, %s after", natural.cost(), ordered.cost())
    return ordered if ordered.cost() < natural.cost() else natural


def _by_receiver(source: Sharded, target: Placement) -> Groups:
    """Sort each group's channels by the group that receives them, then by their place there."""
    if not isinstance(target, Sharded) or target.axis != source.axis:
        return tuple(tuple(sorted(g, key=lambda c: (c == PAD, c))) for g in source.groups)
    place: dict[int, tuple[int, int]] = {}
    for receiver, wanted in enumerate(target.groups):
        for position, channel in enumerate(wanted):
            place.setdefault(channel, (receiver, position))
    last = (len(target.groups), 0)
    return tuple(
        tuple(sorted(g, key=lambda c: last if c == PAD else place.get(c, last)))
        for g in source.groups
    )


class _Tracer:
    """Carries a wanted order back to the operators that can produce it."""

    def __init__(self, func: relax.Function, found: Inference) -> None:
        self.bound = dict(bindings_of(func))
        self.found = found
        self.preferred: dict[relax.Var, Groups] = {}
        self._seen: set[relax.Var] = set()

    def demand(self, var: relax.Var, order: Groups) -> None:
        """Ask that each group hold the channels of `var` in `order`."""
        pending = [(var, order)]
        while pending:
            var, order = pending.pop()
            decision = self.found.decisions.get(var)
            if var in self._seen or decision is None:
                continue
            self._seen.add(var)
            call = self.bound[var]
            if decision.free_order:
                self.preferred[var] = order
            elif is_call(call, "relax.take"):
                chosen = np.atleast_1d(call.args[1].value.numpy()).tolist()
                pending.append((call.args[0], rename(order, dict(enumerate(chosen)))))
            elif is_call(call, "relax.concat"):
                pending += _parts(call, order)
            elif decision.carries_order:
                args = arguments(call)
                pending += [
                    (args[i], order)
                    for i, needed in decision.operands.items()
                    if isinstance(needed, Sharded) and self.found.placements[args[i]] == needed
                ]


def _parts(call: relax.Call, order: Groups) -> list[tuple[relax.Var, Groups]]:
    """Return the orders wanted of the operands of a concatenation."""
    result, offset = [], 0
    for arg in arguments(call):
        extent = static_shape(arg)[int(call.attrs.axis)]
        part = tuple(tuple(c - offset for c in g if offset <= c < offset + extent) for g in order)
        offset += extent
        if len({len(group) for group in part}) == 1:
            result.append((arg, part))
    return result
