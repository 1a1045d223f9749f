# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import DecoupleError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.inspection import inspect_network
from decnn_tvm.network import Network
from decnn_tvm.passes import BindWeights, DecoupleConvolutions, InsertChannelShuffle, WidenChannels
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from tests.modules import drawn, network


def _run(mod, x):
    built = tvm.compile(BindWeights()(mod), target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def test_passes_in_a_users_own_pipeline_on_both_forms_of_weights():
    model = zoo.small("resnet18", image_size=32, width=0.25)
    pipeline = tvm.transform.Sequential(
        [
            relax.transform.CanonicalizeBindings(),
            WidenChannels(width=1.5, groups=2),
            InsertChannelShuffle(groups=2),
            DecoupleConvolutions(groups=2),
        ]
    )
    x = random_inputs((1, 3, 32, 32), 1)[0]
    named = _run(pipeline(from_onnx(model, keep_params_in_input=True)), x)
    constant = _run(pipeline(from_onnx(model)), x)
    np.testing.assert_allclose(constant, named, atol=1e-6 * abs(named).max())


def test_decouple_is_its_passes():
    model = zoo.small("resnet18", image_size=32, width=0.25)
    fresh = {"groups": 2, "weights": "fresh", "seed": 3}
    pipeline = tvm.transform.Sequential(
        [
            WidenChannels(width=1.5, **fresh),
            InsertChannelShuffle(groups=2),
            DecoupleConvolutions(**fresh),
        ]
    )
    x = random_inputs((1, 3, 32, 32), 1)[0]
    named = _run(pipeline(load(model).module), x)
    whole = decouple(load(model), width=1.5, **fresh)
    np.testing.assert_allclose(_run(whole.module, x), named, atol=1e-5 * abs(named).max())


@pytest.mark.parametrize("name", sorted(set(zoo.MODELS) - {"resnet34", "shufflenet_v1"}))
def test_every_network_decouples(name):
    network = load(zoo.small(name))
    decoupled = decouple(network, groups=2, multiple=4)
    assert decoupled.groups == 2 and network.groups is None
    assert decoupled.inputs == network.inputs and decoupled.outputs == network.outputs


def test_own_groups_stay():
    network = load(zoo.small("shufflenet_v1"))
    assert decouple(network, groups=2, shuffle=None).groups == 2


def test_rounding_is_the_remedy():
    network = load(zoo.small("mobilenet_v2"))
    with pytest.raises(DecoupleError, match="divide by 64"):
        decouple(network, groups=8, shuffle="block")
    assert decouple(network, groups=8, shuffle="block", multiple=64).groups == 8


class Shuffled(nn.Module):
    """A dense network whose weights join what shares a group, by a shuffle after ``conv1``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.conv1 = self._masked(torch.arange(32) // 8)
        self.bn = nn.BatchNorm2d(32)
        self.conv2 = self._masked(torch.arange(32) % 4)
        self.fc = nn.Linear(32, 10)

    def _masked(self, group):
        conv = nn.Conv2d(32, 32, 3, padding=1)
        with torch.no_grad():
            conv.weight *= (group[:, None] == group[None])[..., None, None]
        return conv

    def forward(self, x):
        y = functional.relu(self.bn(self.conv1(self.stem(x))))
        return self.fc(functional.relu(self.conv2(y) + y).mean([2, 3]))


def test_inherited_weights_follow_the_shuffles():
    torch.manual_seed(0)
    module = Shuffled().eval()
    nn.init.uniform_(module.bn.running_mean, -0.2, 0.2)
    dense = load(torch.export.export(module, (torch.zeros(2, 3, 12, 12),)), name="shuffled")
    inputs = random_inputs((2, 3, 12, 12))
    with torch.no_grad():
        reference = [module(torch.from_numpy(x)).numpy() for x in inputs]
    found = decouple(dense, groups=4, shuffle=["conv1"])
    assert found.groups == 4
    assert_logits_match(reference_outputs(to_onnx(found), inputs), reference, 1e-5)
    other = decouple(dense, groups=4, shuffle=None)
    (differing,) = reference_outputs(to_onnx(other), inputs[:1])
    assert np.abs(differing - reference[0]).max() > 0.01 * np.abs(reference[0]).max()


@pytest.mark.parametrize("options", [{}, {"width": 1.5}, {"order": "shufflenet"}], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "densenet121"])
def test_shuffles_change_nothing_where_layers_stay_dense(name, options):
    dense = load(zoo.small(name))
    layers = [layer.name for layer in inspect_network(dense).layers if layer.kind == "conv2d"]
    inputs = random_inputs(dense.inputs[0].shape)
    found = decouple(dense, groups=4, multiple=16, exclude=layers, **options)
    ours = reference_outputs(to_onnx(found), inputs)
    assert_logits_match(ours, reference_outputs(to_onnx(dense), inputs), 1e-5)


def test_weights_that_can_not_follow_a_shuffle_are_told_of(caplog):
    def body(emit, x, stem, conv, last):
        y = emit(relax.op.nn.conv2d(emit(relax.op.nn.conv2d(x, stem)), conv))
        return emit(relax.op.nn.conv2d(emit(relax.op.sin(y)), last))

    names = {"stem": 3, "conv": 4, "last": 4}
    weights = {name: drawn(4, count, 1, 1) for name, count in names.items()}
    found = decouple(
        Network("odd", network(body, (1, 3, 5, 5), weights=weights)), groups=2, shuffle=["conv"]
    )
    assert found.groups == 2
    assert "weights keep their order across channel shuffles: can't widen through" in caplog.text
