# SPDX-License-Identifier: Apache-2.0
"""Give convolutions the batch norms back that an exporter folded into them.

``conv(x, w) + b`` becomes ``batch_norm(conv(x, w); gamma, beta, mean, var)`` with the mean and
variance that the channels of ``conv(x, w)`` have on calibration images, ``gamma = sqrt(var +
epsilon)`` and ``beta = mean + b``: the same function, but for rounding, and one that training can
normalise by the batch. `FoldBatchNorm` folds them again when the network is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import tvm
from torch import Tensor
from tvm import relax

from decnn_tvm.errors import TrainingError
from decnn_tvm.network import Network
from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    convolution,
    layer_name,
    op_name,
    read_graph,
    rewrite_bindings,
    shape_of,
)
from decnn_tvm.passes.weights import Array, WeightTable, unique_name, weight_values, weight_vars
from decnn_tvm.training.observation import Observer, check_images
from decnn_tvm.training.torch_module import translate

EPSILON = 1e-5
_BATCH = 64
_ROLES = ("weight", "bias", "running_mean", "running_var")


def restore_batch_norms(
    network: Network, images: Tensor, *, layers: Iterable[str] | None = None
) -> Network:
    """Return `network` with a batch norm after each convolution whose own seems to be folded.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    images : Tensor
        Calibration images, (N, C, H, W), normalised as the network wants them.
    layers : iterable of str, optional
        The convolutions; by default all with a bias and no batch norm.

    Raises
    ------
    TrainingError
        `layers` names something else, or the images can't be used.
    """
    images = check_images(network, images)
    graph = read_graph(network.function)
    found = folded_convolutions(graph)
    if layers is not None:
        wanted = list(layers)
        unknown = sorted(set(wanted) - set(found))
        if unknown:
            raise TrainingError(
                f"no batch norm can be restored after {unknown}; expected some of {list(found)}, "
                "the convolutions with a bias and no batch norm"
            )
        found = {name: found[name] for name in wanted}
    if not found:
        return network
    statistics = channel_statistics(network, [_data(graph, var) for var in found.values()], images)
    return Network(network.name, _with_norms(network, graph, found, statistics))


def folded_convolutions(graph: DataflowGraph) -> dict[str, relax.Var]:
    """Return the additions of a bias to a convolution that nothing else reads, by layer name."""
    found = {}
    for var in graph.data:
        call = graph.call(var, "relax.add")
        if call is None or len(graph.data[var]) != 1:
            continue
        (source,) = graph.data[var]
        conv = convolution(graph.values.get(source))
        bias = added_weight(graph, var)
        normalised = any(
            op_name(graph.values[user]) == "relax.nn.batch_norm" for user in graph.consumers[var]
        )
        if conv is None or bias is None or normalised or len(graph.consumers[source]) != 1:
            continue
        if int(np.prod(shape_of(bias))) == shape_of(source)[1] and var not in graph.outputs:
            found[layer_name(conv)] = var
    return found


def added_weight(graph: DataflowGraph, add: relax.Var) -> relax.Var | None:
    """Return the weight that an addition to data adds, through the reshape that aligns it."""
    known = {var.name for var in weight_vars(graph.func)}
    for arg in graph.values[add].args:
        while op_name(graph.values.get(arg)) == "relax.reshape" and arg not in graph.data:
            arg = graph.values[arg].args[0]
        if isinstance(arg, relax.Var) and arg not in graph.data and arg.name in known:
            return arg
    return None


def channel_statistics(
    network: Network, variables: list[relax.Var], images: Tensor
) -> dict[relax.Var, tuple[Array, Array]]:
    """Return the mean and the variance of each channel (axis 1) of tensors, over all images."""
    module, nodes = translate(network)
    names = {nodes[var]: var for var in variables}
    observer = Observer(module, names)
    sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
    squares = dict(sums)
    counts = dict.fromkeys(names, 0)
    for batch in torch.split(images, _BATCH):
        for name, value in observer.observe(batch).items():
            flat = value.movedim(1, 0).flatten(1).double()
            sums[name] = sums[name] + flat.sum(1)
            squares[name] = squares[name] + flat.square().sum(1)
            counts[name] += flat.shape[1]
    result = {}
    for name, var in names.items():
        mean = sums[name] / counts[name]
        variance = (squares[name] / counts[name] - mean.square()).clamp(min=0)
        result[var] = (mean.float().numpy(), variance.float().numpy())
    return result


def _data(graph: DataflowGraph, add: relax.Var) -> relax.Var:
    return graph.data[add][0]


def _with_norms(
    network: Network,
    graph: DataflowGraph,
    found: dict[str, relax.Var],
    statistics: dict[relax.Var, tuple[Array, Array]],
) -> tvm.IRModule:
    func = network.function
    table, values = WeightTable(func), weight_values(func)
    taken = set(values)
    norms: dict[relax.Var, list[relax.Var]] = {}
    for layer, add in found.items():
        bias = added_weight(graph, add)
        assert bias is not None
        mean, variance = statistics[_data(graph, add)]
        scale = np.sqrt(variance + np.float32(EPSILON))
        stem = unique_name(f"{layer}.bn", {name.rpartition(".")[0] for name in taken})
        parts = (scale, mean + values[bias.name].reshape(-1), mean, variance)
        norms[add] = [
            table.add(f"{stem}.{role}", part) for role, part in zip(_ROLES, parts, strict=True)
        ]
        taken |= {f"{stem}.{role}" for role in _ROLES}

    def rewrite(builder: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in norms:
            return value
        data = next(arg for arg in value.args if shape_of(arg) == shape_of(var))
        options = {"axis": 1, "epsilon": EPSILON, "momentum": 0.1, "training": False}
        return relax.TupleGetItem(
            builder.emit(relax.op.nn.batch_norm(data, *norms[var], **options)), 0
        )

    rewritten = rewrite_bindings(func, rewrite)
    added = [weight for each in norms.values() for weight in each]
    whole = relax.Function([*func.params, *added], rewritten.body, rewritten.ret_ty, func.is_pure)
    result = network.module.clone()
    result["main"] = table.rebuild(func, relax.analysis.remove_all_unused(whole).body)
    return result
