# SPDX-License-Identifier: Apache-2.0
"""Run a module on batches and look at chosen tensors inside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from decnn_tvm.errors import TrainingError
from decnn_tvm.network import Network


class Observer(fx.Interpreter):
    """Runs a module node by node and keeps what the nodes of given names compute.

    Parameters
    ----------
    module : fx.GraphModule
        What to run.
    names : iterable of str
        The nodes to keep.
    """

    def __init__(self, module: fx.GraphModule, names: Iterable[str]) -> None:
        super().__init__(module)
        self.names = frozenset(names)
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; `kept` gets its value."""
        value = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = value
        return value

    @torch.no_grad()
    def observe(self, batch: Tensor) -> Mapping[str, Tensor]:
        """Return the values of the chosen nodes for a batch, in the module's own mode."""
        self.kept = {}
        self.run(batch)
        return self.kept


def device_of(module: nn.Module) -> torch.device:
    """Return where the weights of a module are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def check_images(network: Network, images: Tensor) -> Tensor:
    """Return calibration images on the CPU, where networks are calibrated.

    Raises
    ------
    TrainingError
        There are none, they are not what the network takes, or hold NaN or infinity.
    """
    shape = network.inputs[0].shape[1:]
    fits = isinstance(images, Tensor) and tuple(images.shape[1:]) == tuple(shape)
    if not fits or not images.is_floating_point():
        got = getattr(images, "dtype", type(images).__name__)
        raise TrainingError(
            f"calibration: images are {got}{list(getattr(images, 'shape', ()))}; expected a tensor "
            f"of floats {['N', *shape]}, normalised as the network takes them"
        )
    if len(images) == 0:
        raise TrainingError("calibration: no images; pass some dozens like those to come")
    if not torch.isfinite(images).all():
        raise TrainingError("calibration: the images hold NaN or infinity")
    return images.detach().cpu()
