# SPDX-License-Identifier: Apache-2.0
"""Insert channel shuffles, which let the groups of a decoupled network mix.

``x`` becomes ``reshape(permute_dims(reshape(x, (B, C/G, G, H, W)), (0, 2, 1, 3, 4)), x.shape)`` for
every later reader: new group b holds the channels i with i mod G = b (DeCNN's order). ShuffleNet's
order reshapes to (B, G, C/G, H, W) instead and is the inverse permutation.

This changes the function, unless the weights follow (`follow`): those of every layer behind a
shuffle are put in the order of its channels, and the network, while it is dense, computes what it
did. A decoupling that comes next then keeps weights of the very channels that a group has. Run it
before `DecoupleConvolutions`, or after: a ``take`` that had put the groups of a shuffled tensor
together is dropped, as the shuffle forms new groups.
"""

from __future__ import annotations

import logging
from typing import Literal

import tvm
from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.dataflow_graph import read_graph, rewrite_bindings, shape_of
from decnn_tvm.passes.decouple_convolutions import check_groups
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.shuffle_places import Where, shuffle_places
from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    weight_values,
    weight_vars,
    with_weights,
)

logger = logging.getLogger(__name__)
Order = Literal["decnn", "shufflenet"]


@tvm.transform.module_pass(opt_level=0, name="decnn.InsertChannelShuffle")
class InsertChannelShuffle:
    """Shuffle the channels of chosen tensors.

    Parameters
    ----------
    groups : int
        Number of channel groups, G; the channels of a shuffled tensor divide by G * G.
    after : {"stage", "block"}, int or sequence of str
        ``"stage"``: before the resolution shrinks in the decoupled part (ResNet: after layer1, 2
        and 3). ``"block"``: after each residual or concatenating block. A number k: after every
        k decoupled convolutions in depth. Names: after these layers, with their normalisation
        and activation, and past the sum that ends their residual branch.
    order : {"decnn", "shufflenet"}
        New group b takes the channels i with i mod G = b, or the inverse of that.
    follow : bool
        Let the weights of a dense network follow. Where they can't, as behind an operator that
        channels can't be traced through, that is logged and they stay.

    Raises
    ------
    DecoupleError
        No such place, or a tensor whose channels don't divide by G * G.
    """

    def __init__(
        self,
        *,
        groups: int,
        after: Where = "stage",
        order: Order = "decnn",
        follow: bool = False,
    ) -> None:
        check_groups(groups)
        if order not in ("decnn", "shufflenet"):
            raise DecoupleError(f"order must be 'decnn' or 'shufflenet', got {order!r}")
        self.groups, self.after, self.order, self.follow = groups, after, order, follow

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        mod = LiftWeights()(mod)  # type: ignore[operator]
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                mod.update_func(var, self._insert(func))
        return mod

    def _insert(self, func: relax.Function) -> relax.Function:
        graph = read_graph(func)
        places = shuffle_places(graph, self.groups, self.after)
        for place in places:
            self._check(place)
        regrouped = {
            var
            for var, read in graph.data.items()
            if read and read[0] in places and _takes_channels(graph.values[var])
        }

        def rewrite(builder: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr:
            if var in regrouped:
                return value.args[0]
            if var not in places:
                return value
            return channel_shuffle(builder, builder.emit(value), self.groups, self.order)

        values = self._following(func) if self.follow else weight_values(func)
        weights = {var: values[var.name] for var in weight_vars(func)}
        return with_weights(rewrite_bindings(func, rewrite), inputs_of(func), weights)

    def _following(self, func: relax.Function) -> dict[str, Array]:
        """Return the weights in the order that channels have behind the shuffles."""
        # Both are built on passes, so they can't be there yet when this module is read.
        from decnn_tvm.channel_assignment import natural_order
        from decnn_tvm.channel_layout import ChannelLayout
        from decnn_tvm.presets import Structure

        structure = Structure(
            groups=self.groups, width=1.0, channels={}, shuffle=self.after, multiple=None
        )
        try:
            layout = ChannelLayout(func, structure, None, self.order, ())
        except DecoupleError as error:
            logger.warning("weights keep their order across channel shuffles: %s", error)
            return weight_values(func)
        return layout.weights(natural_order(layout.channels()))

    def _check(self, place: relax.Var) -> None:
        channels, square = shape_of(place)[1], self.groups**2
        logger.debug("shuffle %s: %d channels", place.name, channels)
        if channels % square:
            raise DecoupleError(
                f"a shuffle of {self.groups} groups needs channels that divide by {square}, and "
                f"tensor {place.name!r} has {channels}; widen the network to multiples of "
                f"{square} (WidenChannels), or shuffle elsewhere"
            )


def channel_shuffle(
    builder: relax.BlockBuilder, data: relax.Var, groups: int, order: Order
) -> relax.Expr:
    """Return the shuffle of `data`, (B, C, H, W); its last operation is not emitted."""
    shape = shape_of(data)
    batch, channels, *image = shape
    split = (channels // groups, groups) if order == "decnn" else (groups, channels // groups)
    parts = builder.emit(relax.op.reshape(data, (batch, *split, *image)))
    swapped = builder.emit(relax.op.permute_dims(parts, [0, 2, 1, 3, 4]))
    return relax.op.reshape(swapped, shape)


def _takes_channels(value: relax.Expr) -> bool:
    taken = isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.take")
    return taken and isinstance(value.args[1], tvm.ir.GenericConst)
