# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import tvm
from torch.nn import functional

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import TrainingError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.passes.fold_batch_norm import FoldBatchNorm
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.execution import plain_outputs
from decnn_tvm.training import from_torch, restore_batch_norms, to_torch


def folded(name: str) -> Network:
    """Return a network of the zoo as an exporter that folds batch norms gives it."""
    net = load(zoo.small(name))
    return dataclasses.replace(net, module=tvm.transform.Sequential([FoldBatchNorm()])(net.module))


def images(net: Network, count: int = 24) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(random_inputs(net.inputs[0].shape, count, seed=3)))


def count(net: Network, operator: str) -> int:
    return net.module.script().count(f"R.{operator}(")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet"])
def test_the_function_is_unchanged_at_the_start(name: str) -> None:
    net = folded(name)
    assert count(net, "nn.batch_norm") == 0
    restored = restore_batch_norms(net, images(net))
    assert count(restored, "nn.batch_norm") >= 12
    inputs = random_inputs(net.inputs[0].shape)
    reference = reference_outputs(to_onnx(net), inputs)
    assert_logits_match(reference_outputs(to_onnx(restored), inputs), reference, 1e-5)


def test_statistics_are_those_of_the_images() -> None:
    net = folded("resnet18")
    x = images(net)
    restored = restore_batch_norms(net, x, layers=["conv1"])
    values = weight_values(restored.function)
    conv = functional.conv2d(x, torch.from_numpy(values["conv1.weight"]), None, 2, 3)
    for role, expected in (
        ("running_mean", conv.mean((0, 2, 3))),
        ("running_var", conv.var((0, 2, 3), correction=0)),
    ):
        np.testing.assert_allclose(values[f"conv1.bn.{role}"], expected, rtol=1e-4, atol=1e-5)


def test_a_trained_network_is_folded_again_exactly() -> None:
    net = folded("resnet18")
    restored = decouple(restore_batch_norms(net, images(net)), multiple=16)
    module = to_torch(restored).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(0)
    for _ in range(4):
        optimizer.zero_grad()
        x = torch.randn(8, 3, 64, 64)
        functional.cross_entropy(module(x), torch.arange(8)).backward()
        optimizer.step()
    trained = from_torch(restored, module.eval())
    compiled = FoldBatchNorm()(trained.module)
    assert "nn.batch_norm" not in compiled.script()
    inputs = random_inputs(net.inputs[0].shape)
    with torch.no_grad():
        ours = [module(torch.from_numpy(x)).numpy() for x in inputs]
    assert_logits_match([run[0] for run in plain_outputs(compiled, inputs)], ours, 1e-5)
    before = to_torch(restored)(torch.from_numpy(inputs[0])).detach().numpy()
    assert np.abs(before - ours[0]).max() > 1e-3 * np.abs(before).max()


def test_layers_that_have_none_folded_are_refused_and_the_rest_left_alone() -> None:
    net = load(zoo.small("resnet18"))
    assert restore_batch_norms(net, images(net, 2)) is net
    with pytest.raises(TrainingError, match=r"restored after \['conv1'\]"):
        restore_batch_norms(net, images(net, 2), layers=["conv1"])
    with pytest.raises(TrainingError, match="no images"):
        restore_batch_norms(folded("resnet18"), images(net, 2)[:0])
