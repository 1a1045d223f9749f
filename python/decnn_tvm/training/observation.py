# SPDX-License-Identifier: Apache-2.0
"""Run a module on batches and look at chosen tensors inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from decnn_tvm.errors import TrainingError


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


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Yield `images` in batches; `TrainingError` if there are none, or not of numbers."""
    if len(images) == 0:
        raise TrainingError("calibration: no images; pass some dozens like those to come")
    if not torch.isfinite(images).all():
        raise TrainingError("calibration: the images hold NaN or infinity")
    yield from torch.split(images, size)
