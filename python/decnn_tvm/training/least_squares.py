# SPDX-License-Identifier: Apache-2.0
"""Fit the group convolutions of a decoupled network to the dense layers that they stand for.

For each layer, from the first to the last, and each of its groups g, the weights are those that
minimise over images and pixels

    || y - V x_g - b ||^2 + r || V - V0 ||^2

where y is what the dense layer gives inside the dense network, x_g what group g has inside the
decoupled one, whose earlier layers have been fitted already (so that later layers make good for
their errors), and V0 are the weights so far, to which the few directions that the images leave open
are drawn. The normal equations are those of centred data, ``(X'X + r I)(V - V0) = X'(Y - X V0)``,
and b follows from the means.

What b and the new output mean for a batch norm behind the layer is written so that it computes the
fit and its statistics are those of the new output: training goes on from the same function.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from decnn_tvm.channel_assignment import Index
from decnn_tvm.network import Network
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    convolution,
    layer_name,
    op_name,
    read_graph,
)
from decnn_tvm.training.folded_norms import added_weight
from decnn_tvm.training.observation import Observer
from decnn_tvm.training.torch_module import translate
from decnn_tvm.training.trained_weights import from_torch

logger = logging.getLogger(__name__)
_BATCH = 64
_PIXELS = 64  # of each image, drawn once for each layer
_RIDGE = 1e-4  # of the mean variance of the inputs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A layer to fit: its weight, what follows it, and what its outputs are to be."""

    name: str
    weight: str
    norm: tuple[str, ...]
    epsilon: float
    bias: str
    target: Tensor
    pixels: Tensor


def fit_groups(
    dense: Network, decoupled: Network, copied: Mapping[str, Index], images: Tensor
) -> Network:
    """Return `decoupled` with its group convolutions fitted.

    Parameters
    ----------
    dense, decoupled : Network
        Before and after.
    copied : mapping from layer name to array
        The layers to fit; for each output channel of `decoupled`, the one of `dense` it stands for.
    images : Tensor
        (N, C, H, W), normalised.
    """
    targets = _targets(dense, copied, images)
    graph = read_graph(decoupled.function)
    module, nodes = translate(decoupled)
    fits = {}
    for var, name in _layers(graph).items():
        if name in copied:
            target, pixels = targets[name]
            wanted = target[:, torch.from_numpy(np.asarray(copied[name]))]
            fits[nodes[var]] = _described(graph, var, name, wanted, pixels)
    _Fitter(module, fits).fit(images)
    return from_torch(decoupled, module)


def _layers(graph: DataflowGraph) -> dict[Any, str]:
    return {
        var: layer_name(call)
        for var in graph.data
        if (call := convolution(graph.values.get(var))) is not None
    }


def _targets(
    dense: Network, copied: Mapping[str, Index], images: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each dense layer gives at some pixels of each image, and which pixels."""
    module, nodes = translate(dense)
    layers = {
        nodes[var]: name
        for var, name in _layers(read_graph(dense.function)).items()
        if name in copied
    }
    observer = Observer(module, layers)
    found: dict[str, list[Tensor]] = {name: [] for name in layers.values()}
    pixels: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for batch in torch.split(images, _BATCH):
        for node, value in observer.observe(batch).items():
            name, flat = layers[node], value.flatten(2)
            if name not in pixels:
                count = flat.shape[2]
                pixels[name] = torch.randperm(count, generator=generator)[:_PIXELS]
            found[name].append(_rows(flat[:, :, pixels[name]]))
    return {name: (torch.cat(parts), pixels[name]) for name, parts in found.items()}


def _rows(values: Tensor) -> Tensor:
    """Return (N, C, P) as (N P, C)."""
    return values.transpose(1, 2).flatten(0, 1)


def _described(graph: DataflowGraph, var: Any, name: str, target: Tensor, pixels: Tensor) -> _Fit:
    weight = str(graph.values[var].args[1].name)
    norm: tuple[str, ...] = ()
    epsilon, bias = 0.0, ""
    users = graph.consumers[var]
    if len(users) == 1 and op_name(graph.values[users[0]]) == "relax.nn.batch_norm":
        call: Any = graph.values[users[0]]
        norm, epsilon = tuple(str(a.name) for a in call.args[1:]), float(call.attrs.epsilon)
    elif len(users) == 1 and op_name(graph.values[users[0]]) == "relax.add":
        added = added_weight(graph, users[0])
        bias = "" if added is None else str(added.name)
    return _Fit(
        name=name,
        weight=weight,
        norm=norm,
        epsilon=epsilon,
        bias=bias,
        target=target,
        pixels=pixels,
    )


class _Fitter(fx.Interpreter):
    """Runs a network on all images at once and fits its layers as it comes to them."""

    def __init__(self, module: fx.GraphModule, fits: Mapping[str, _Fit]) -> None:
        super().__init__(module)
        self.fits = fits
        self.state = dict(module.named_parameters()) | dict(module.named_buffers())

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        """Fit the layer of a node before it runs."""
        if n.name not in self.fits:
            return super().run_node(n)
        fit = self.fits[n.name]
        args, _ = self.fetch_args_kwargs_from_env(n)
        shift = self._weights(fit, *args)
        value = super().run_node(n)
        if fit.norm:
            self._renormalise(fit, value, shift)
        elif fit.bias:
            bias = self.state[fit.bias]
            bias.add_(shift.reshape(bias.shape))
        return value

    def _weights(
        self,
        fit: _Fit,
        x: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        """Fit the weights in place and return what is to be added to each output."""
        patches = [
            _patches(part, fit.pixels, weight.shape[2:], stride, padding, dilation)
            for part in torch.split(x, _BATCH)
        ]
        rows = _rows(torch.cat(patches))
        columns, free = rows.shape[1] // groups, bool(fit.norm or fit.bias)
        count, shifts = weight.shape[0] // groups, []
        for group in range(groups):
            outputs = slice(group * count, (group + 1) * count)
            inputs = rows[:, group * columns : (group + 1) * columns].double()
            solved, shift = _solve(
                inputs, fit.target[:, outputs].double(), weight[outputs].flatten(1).double(), free
            )
            weight[outputs] = solved.reshape(weight[outputs].shape).to(weight.dtype)
            shifts.append(shift)
        return torch.cat(shifts).to(weight.dtype)

    def _renormalise(self, fit: _Fit, value: Tensor, shift: Tensor) -> None:
        scale, bias, mean, variance = (self.state[name] for name in fit.norm)
        flat = value.movedim(1, 0).flatten(1)
        new_mean, new_variance = flat.mean(1), flat.var(1, correction=0)
        factor = scale / torch.sqrt(variance + fit.epsilon)
        bias.add_(factor * (new_mean + shift - mean))
        scale.copy_(factor * torch.sqrt(new_variance + fit.epsilon))
        mean.copy_(new_mean)
        variance.copy_(new_variance)


def _patches(
    x: Tensor,
    pixels: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return what some output pixels of a convolution read: (N, C KH KW, pixels)."""
    top, left, bottom, right = padding
    padded = functional.pad(x, (left, right, top, bottom))
    width = (padded.shape[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    rows, columns = pixels // width * stride[0], pixels % width * stride[1]
    read = [
        padded[:, :, rows + i * dilation[0], columns + j * dilation[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return torch.stack(read, 2).flatten(1, 2)


def _solve(x: Tensor, y: Tensor, start: Tensor, free: bool) -> tuple[Tensor, Tensor]:
    """Return the weights (outputs, inputs) of the fit and its intercept, 0 if it is not `free`."""
    mean_x = x.mean(0) if free else torch.zeros_like(x[0])
    mean_y = y.mean(0) if free else torch.zeros_like(y[0])
    x, y = x - mean_x, y - mean_y
    normal = x.T @ x
    ridge = _RIDGE * normal.diagonal().mean().clamp(min=1e-12)
    normal.diagonal().add_(ridge)
    change = torch.linalg.solve(normal, x.T @ (y - x @ start.T)).T
    weights = start + change
    return weights, mean_y - weights @ mean_x
