# SPDX-License-Identifier: Apache-2.0
"""A user's own passes over a network, and what is demanded of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.network import Network
from decnn_tvm.passes.weights import has_weights, weight_vars
from decnn_tvm.pipeline import preparation_passes


def apply_passes(network: Network, passes: Sequence[Any]) -> Network:
    """Prepare `network` for compilation and apply `passes` to it, in order.

    A pass sees convolutions with batch norms folded into them, and a bias as an addition. It may
    change ``main`` at will, but for its inputs and outputs.

    Parameters
    ----------
    network : Network
        The network.
    passes : sequence of tvm.transform.Pass
        None is no change, and no preparation.

    Raises
    ------
    CompileError
        A pass fails, or leaves something that is no such network; names the pass.
    """
    if not passes:
        return network
    prepared = tvm.transform.Sequential(preparation_passes())(network.module)
    changed = Network(network.name, prepared)
    for each in passes:
        changed = _applied(changed, each)
    return changed


def _applied(network: Network, each: Any) -> Network:
    name = _name(each)
    if not isinstance(each, tvm.transform.Pass):
        raise CompileError(f"passes: {name} is no tvm.transform.Pass; decorate it as a module_pass")
    try:
        changed = Network(network.name, each(network.module))
        relax.analysis.well_formed(changed.module)
        found = _interface(changed)
    except Exception as error:  # whatever a user's code trips over
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"pass {name} failed: {lines[-1]}") from error
    expected = _interface(network)
    if found != expected:
        raise CompileError(
            f"pass {name} changed the network's inputs or outputs, which are now {found}; "
            f"expected {expected}"
        )
    _check_weights(changed, name)
    return changed


def _interface(network: Network) -> tuple[list[Any], list[Any]]:
    outputs = [(one.shape, one.dtype) for one in network.outputs]
    return [(one.name, one.shape, one.dtype) for one in network.inputs], outputs


def _check_weights(network: Network, name: str) -> None:
    func = network.function
    if has_weights(func) and len(weight_vars(func)) != len(func.attrs["params"]):
        raise CompileError(
            f"pass {name} left {len(weight_vars(func))} weights with "
            f"{len(func.attrs['params'])} values; expected as many of both, see "
            "decnn_tvm.passes.weights"
        )


def _name(each: Any) -> str:
    info = getattr(each, "info", None)
    return repr(str(info.name)) if info is not None else repr(type(each).__name__)
