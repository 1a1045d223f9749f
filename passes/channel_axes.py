# SPDX-License-Identifier: Apache-2.0
"""Where the channels are in every tensor and every weight of a network, for `WidenChannels`.

A tensor has its channels along one axis, of extent ``outer * channels * inner``: a flattened NCHW
tensor has ``inner = H * W``. Weights read the channels of the tensors they meet, along one or two
of their axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.channel_classes import ChannelClasses, Segments
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    convolution,
    is_depthwise,
    layer_name,
    op_name,
    shape_of,
)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChannelAxis:
    """Channels along `axis`; the axis counts ``outer * channels * inner`` elements."""

    axis: int
    segments: Segments
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True, slots=True)
class WeightAxis:
    """A weight's axis that follows channels; `summed` if the layer adds over them."""

    channels: ChannelAxis
    summed: bool = False


@dataclass(slots=True)
class ChannelAxes:
    """Infer the channel axes of a network, class by class.

    Attributes
    ----------
    tensors : dict of Var to ChannelAxis or None
        Data and reshaped weights; None where no convolution's channels are.
    weights : dict of str to list of WeightAxis
        The axes of each weight that follow channels.
    shuffled : dict of Var to Var
        Selections of channels that start a class of their own: what later layers see is in another
        order. The class of the key holds the channels of the value's.
    """

    graph: DataflowGraph
    shuffled: dict[relax.Var, relax.Var] = field(default_factory=dict)
    classes: ChannelClasses = field(default_factory=ChannelClasses)
    tensors: dict[relax.Var, ChannelAxis | None] = field(default_factory=dict)
    weights: dict[str, list[WeightAxis]] = field(default_factory=dict)

    def infer(self) -> ChannelAxes:
        """Go through all data in order."""
        for var, read in self.graph.data.items():
            self.tensors[var] = self._of(var, read) if read else None
        for output in self.graph.outputs:
            self._fix(self.tensors[output])
        self.classes.settle()
        return self

    def _of(self, var: relax.Var, read: tuple[relax.Var, ...]) -> ChannelAxis | None:
        value: Any = self.graph.values[var]
        if var in self.shuffled:
            source = self.tensors[self.shuffled[var]]
            return source and replace(source, segments=self.classes.new(self._size(source)))
        if isinstance(value, relax.TupleGetItem):
            return self.tensors[read[0]]
        call = convolution(value)
        if call is not None:
            return self._convolution(call)
        if all(self.tensors[source] is None for source in read):
            return None
        rule = _RULES.get(op_name(value))
        if rule is None:
            raise DecoupleError(
                f"can't widen through {op_name(value) or type(value).__name__} ({var.name!r}); "
                "exclude the layers before it, or decouple with width=1.0 (load ONNX networks "
                "with decnn_tvm.frontend.load, which keeps Clip as one operator)"
            )
        return rule(self, var, value)

    def _fix(self, channels: ChannelAxis | None) -> None:
        if channels is not None:
            self.classes.fix(channels.segments)

    def _bind(self, weight: relax.Expr, channels: ChannelAxis, summed: bool = False) -> None:
        """Let an axis of a weight, or of a reshaped weight, follow `channels`."""
        value: Any = self.graph.values.get(weight)
        if op_name(value) in ("relax.reshape", "relax.permute_dims"):
            self.tensors[weight] = channels
            source = value.args[0]
            if op_name(value) == "relax.reshape":
                back = _reshaped(channels, self._size(channels), shape_of(weight), shape_of(source))
            else:
                back = replace(channels, axis=_axes(value, len(shape_of(source)))[channels.axis])
            self._bind(source, back, summed)
        elif isinstance(weight, relax.Var) and value is None:
            roles = self.weights.setdefault(str(weight.name), [])
            if WeightAxis(channels, summed) not in roles:
                roles.append(WeightAxis(channels, summed))
        else:
            self._fix(channels)

    def _size(self, channels: ChannelAxis) -> int:
        return sum(self.classes.sizes[each] for each in channels.segments)

    def _convolution(self, call: relax.Call) -> ChannelAxis:
        data, weight = call.args
        source, outputs = self.tensors[data], shape_of(weight)[0]
        if source is not None and (source.axis, source.outer, source.inner) != (1, 1, 1):
            raise DecoupleError(f"can't widen {layer_name(call)!r}: its channels are not axis 1")
        groups = int(call.attrs.groups)
        if is_depthwise(call) and source is not None and outputs == groups:
            self._bind(weight, ChannelAxis(0, source.segments))
            self.classes.layers[layer_name(call)] = source.segments
            return source
        made = self.classes.new(outputs)
        self.classes.layers[layer_name(call)] = made
        self._bind(weight, ChannelAxis(0, made))
        if source is not None:
            if groups == 1:
                self._bind(weight, ChannelAxis(1, source.segments), summed=True)
            else:
                self.classes.fix((*source.segments, *made))
        return ChannelAxis(1, made)

    def _same(self, _var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        return self.tensors[value.args[0]]

    def _normalised(self, _var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        channels = self.tensors[value.args[0]]
        if channels is None or channels.axis != int(value.attrs.axis) % len(
            shape_of(value.args[0])
        ):
            self._fix(channels)
            return channels
        for weight in value.args[1:]:
            self._bind(weight, replace(channels, axis=0))
        return channels

    def _combined(self, var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        known = [c for arg in value.args if (c := self.tensors.get(arg)) is not None]
        channels, rank = known[0], len(shape_of(var))
        for arg in value.args:
            shape = shape_of(arg)
            other = self.tensors.get(arg)
            axis = channels.axis - (rank - len(shape))
            if other is channels or axis < 0 or shape[axis] == 1:
                continue
            if arg not in self.graph.data:
                self._bind(arg, replace(channels, axis=axis))
            elif other is None or replace(other, segments=()) != replace(
                channels, segments=(), axis=axis
            ):
                self._fix(channels)
                self._fix(other)
            else:
                self.classes.tie(channels.segments, other.segments, f"{var.name!r}")
        return channels

    def _concatenated(self, var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        axis = int(value.attrs.axis) % len(shape_of(var))
        segments: Segments = ()
        for part in value.args[0].fields:
            channels = self.tensors.get(part)
            if channels is None:
                segments += self.classes.new(shape_of(part)[axis], fixed=True)
            elif (channels.axis, channels.outer, channels.inner) != (axis, 1, 1):
                raise DecoupleError(f"can't widen {var.name!r}: a concat across channels")
            else:
                segments += channels.segments
        return ChannelAxis(axis, segments)

    def _permuted(self, var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        channels = self.tensors[value.args[0]]
        assert channels is not None
        return replace(channels, axis=_axes(value, len(shape_of(var))).index(channels.axis))

    def _reshaped(self, var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        channels, source = self.tensors[value.args[0]], shape_of(value.args[0])
        assert channels is not None
        return _reshaped(channels, self._size(channels), source, shape_of(var))

    def _reduced(self, var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        channels, rank = self.tensors[value.args[0]], len(shape_of(value.args[0]))
        axes = {int(a) % rank for a in value.attrs.axis or range(rank)}
        if channels is None or channels.axis in axes:
            self._fix(channels)
            return None
        gone = 0 if value.attrs.keepdims else sum(axis < channels.axis for axis in axes)
        return replace(channels, axis=channels.axis - gone)

    def _dense(self, _var: relax.Var, value: relax.Call) -> ChannelAxis | None:
        data, weight = value.args
        channels = self.tensors.get(data)
        if channels is None or weight in self.graph.data:
            self._fix(channels)
            self._fix(self.tensors.get(weight))
        elif channels.axis == len(shape_of(data)) - 1:
            self._bind(weight, replace(channels, axis=len(shape_of(weight)) - 2), summed=True)
        else:
            return channels
        return None


def _axes(value: relax.Call, rank: int) -> list[int]:
    axes = value.attrs.axes
    return [int(a) % rank for a in axes] if axes is not None else list(range(rank))[::-1]


def _reshaped(channels: ChannelAxis, size: int, old: Shape, new: Shape) -> ChannelAxis:
    outer = math.prod(old[: channels.axis]) * channels.outer
    for axis, extent in enumerate(new):
        before = math.prod(new[:axis])
        if outer % before == 0 and extent % (outer // before * size) == 0:
            if extent == 1 and size == 1 and axis + 1 < len(new):
                continue
            kept = outer // before
            return ChannelAxis(axis, channels.segments, kept, extent // (kept * size))
    raise DecoupleError(
        f"can't widen through a reshape of {old} to {new}, which splits the channels; "
        "widen before channel shuffles are inserted, or use width=1.0"
    )


_Rule = Callable[[ChannelAxes, relax.Var, relax.Call], ChannelAxis | None]
_SAME = (
    "nn.relu nn.leakyrelu nn.relu6 nn.silu nn.gelu nn.gelu_tanh nn.dropout nn.selu nn.softplus "
    "clip sigmoid tanh exp hardswish negative abs sqrt square erf "
    "nn.max_pool2d nn.avg_pool2d nn.adaptive_avg_pool2d nn.pad image.resize2d"
)
_RULES: dict[str, _Rule] = {
    **{f"relax.{name}": ChannelAxes._same for name in _SAME.split()},
    **dict.fromkeys(
        [f"relax.{n}" for n in "add subtract multiply divide maximum minimum".split()],
        ChannelAxes._combined,
    ),
    "relax.nn.batch_norm": ChannelAxes._normalised,
    "relax.concat": ChannelAxes._concatenated,
    "relax.permute_dims": ChannelAxes._permuted,
    "relax.reshape": ChannelAxes._reshaped,
    "relax.nn.batch_flatten": ChannelAxes._reshaped,
    "relax.flatten": ChannelAxes._reshaped,
    "relax.squeeze": ChannelAxes._reshaped,
    "relax.expand_dims": ChannelAxes._reshaped,
    "relax.mean": ChannelAxes._reduced,
    "relax.sum": ChannelAxes._reduced,
    "relax.max": ChannelAxes._reduced,
    "relax.matmul": ChannelAxes._dense,
}
