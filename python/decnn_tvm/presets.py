# SPDX-License-Identifier: Apache-2.0
"""The decoupled structures that the authors of DeCNN published, to be had by name.

Channels are those of Du et al., "Model Parallelism Optimization for Distributed Inference via
Decoupled CNN Structure" (IEEE TPDS, 2021), for G = 4. Layers are counted in the network's own
order, so a preset fits a network of any layer names that has the preset's structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import tvm
from tvm import relax

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes.dataflow_graph import convolution, layer_name, read_graph, shape_of
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.shuffle_places import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published structure.

    Attributes
    ----------
    name : str
        Its name.
    groups : int
        Channel groups.
    dense : tuple of (int, int)
        Output channels and kernel height of each convolution of the dense network, in order:
        what the preset applies to.
    width : float
        Factor on the channels.
    channels : tuple of int
        Exact channels of each convolution instead; empty where `width` says it all.
    shuffle_after : tuple of int
        Convolutions to shuffle after, counted from 1; empty to shuffle by stage.
    """

    name: str
    groups: int = 4
    dense: tuple[tuple[int, int], ...]
    width: float = 1.0
    channels: tuple[int, ...] = ()
    shuffle_after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """How one network is decoupled, in terms of its layers; see `decnn_tvm.decouple`."""

    groups: int
    width: float
    channels: Mapping[str, int]
    shuffle: Where | None
    multiple: int | None = None


def _residual(blocks: tuple[int, ...], bottleneck: bool) -> tuple[tuple[int, int], ...]:
    layers = [(64, 7)]
    for stage, repeats in enumerate(blocks):
        count = 64 * 2**stage
        last = 4 * count if bottleneck else count
        for index in range(repeats):
            layers += [(count, 1), (count, 3), (last, 1)] if bottleneck else [(count, 3)] * 2
            if index == 0 and (bottleneck or stage > 0):
                layers.append((last, 1))
    return tuple(layers)


_RESNET34 = _residual((3, 4, 6, 3), bottleneck=False)
_RESNET50 = _residual((3, 4, 6, 3), bottleneck=True)
_VGG16 = tuple((c, 3) for c in (64, 64, 128, 128, *[256] * 3, *[512] * 6))
_ALEXNET = ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(name="resnet34-x1.5", dense=_RESNET34, width=1.5),
            Preset(name="resnet34-x1.75", dense=_RESNET34, width=1.75),
            Preset(name="resnet50-x1.5", dense=_RESNET50, width=1.5),
            Preset(name="resnet50-x1.75", dense=_RESNET50, width=1.75),
            Preset(
                name="vgg16_bn",
                dense=_VGG16,
                channels=(96, 112, 224, 224, *[448] * 3, *[896] * 5, 512),
                shuffle_after=(5, 9),
            ),
            Preset(
                name="alexnet",
                dense=_ALEXNET,
                channels=(128, 384, 768, 512, 256),
                shuffle_after=(3,),
            ),
        )
    }
)
"""Presets by name."""


def apply_preset(name: str, module: tvm.IRModule) -> Structure:
    """Return what a preset asks of the layers of a dense network.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.
    module : IRModule
        The dense network.

    Raises
    ------
    DecoupleError
        No such preset, or a network of another structure.
    """
    if name not in PRESETS:
        raise DecoupleError(f"no preset is named {name!r}; expected one of {list(PRESETS)}")
    preset = PRESETS[name]
    layers = _dense_layers(module)
    found = sorted((shape[0], shape[2]) for shape in layers.values())
    ordered = tuple((shape[0], shape[2]) for shape in layers.values())
    by_order = bool(preset.channels)
    if (by_order and ordered != preset.dense) or found != sorted(preset.dense):
        raise DecoupleError(
            f"preset {name!r} is for {len(preset.dense)} convolutions of (channels, kernel) "
            f"{preset.dense}, and this network has {len(ordered)}: {ordered}; "
            "choose groups, width and shuffle by hand"
        )
    names = list(layers)
    return Structure(
        groups=preset.groups,
        width=preset.width,
        channels=dict(zip(names, preset.channels, strict=False)),
        shuffle=[names[i - 1] for i in preset.shuffle_after] or "stage",
    )


def _dense_layers(module: tvm.IRModule) -> dict[str, tuple[int, ...]]:
    layers: dict[str, tuple[int, ...]] = {}
    lifted = LiftWeights()(module)  # type: ignore[operator]
    for func in lifted.functions.values():
        if isinstance(func, relax.Function):
            graph = read_graph(func)
            for var in graph.data:
                call = convolution(graph.values.get(var))
                if call is not None:
                    layers[layer_name(call)] = shape_of(call.args[1])
    return layers
