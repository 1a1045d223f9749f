# SPDX-License-Identifier: Apache-2.0
"""The weights of a trained module, back in the network that it was made of."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
import torch
from torch import nn

from decnn_tvm.errors import TrainingError
from decnn_tvm.network import Network
from decnn_tvm.passes.weights import Array, inputs_of, static_shape, weight_vars, with_weights
from decnn_tvm.training.torch_graph import PRIVATE

_WRAPPERS = ("_orig_mod.", "module.")  # prefixes of torch.compile and of DataParallel


def from_torch(network: Network, module: nn.Module | Mapping[str, torch.Tensor]) -> Network:
    """Return `network` with the weights of a module that `to_torch` made of it.

    Parameters
    ----------
    network : Network
        What the module was made of.
    module : nn.Module or mapping
        The module, also wrapped by ``torch.compile`` or ``DataParallel``, or its ``state_dict()``.

    Raises
    ------
    TrainingError
        A weight is missing, unknown, of another shape, or not finite.
    """
    state = module.state_dict() if isinstance(module, nn.Module) else module
    known = {str(var.name) for var in weight_vars(network.function)}
    values = {_own_name(name, known): value for name, value in state.items()}
    return replace_weights(
        network,
        {
            name: value.detach().cpu().float().numpy()
            for name, value in values.items()
            if not name.startswith(f"{PRIVATE}.")
        },
    )


def replace_weights(network: Network, values: Mapping[str, Array]) -> Network:
    """Return `network` with other values of all its weights; the same errors as `from_torch`."""
    func = network.function
    weights = weight_vars(func)
    expected = {var.name: static_shape(var) for var in weights}
    found = {name: value.shape for name, value in values.items()}
    if found != expected:
        wrong = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        first = wrong[0]
        raise TrainingError(
            f"{len(wrong)} weights don't fit network {network.name!r}, the first is {first!r}: "
            f"expected {expected.get(first, 'none of that name')}, got "
            f"{found.get(first, 'none')}; take the module that to_torch made of this network"
        )
    broken = sorted(name for name, value in values.items() if not np.isfinite(value).all())
    if broken:
        raise TrainingError(
            f"weights {broken[:3]} hold NaN or infinity: the training diverged; lower the "
            "learning rate"
        )
    result = network.module.clone()
    new = {var: np.asarray(values[var.name], str(var.ty.dtype)) for var in weights}
    result["main"] = with_weights(func, inputs_of(func), new)
    return Network(network.name, result)


def _own_name(name: str, known: Container[str]) -> str:
    """Return a name without prefixes of wrappers; a weight's own name may begin with one too."""
    for prefix in _WRAPPERS:
        if name in known:
            break
        name = name.removeprefix(prefix)
    return name
