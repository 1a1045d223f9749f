# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import DecoupleError
from decnn_tvm.frontend import load
from decnn_tvm.passes import BindWeights, DecoupleConvolutions, InsertChannelShuffle, WidenChannels
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import random_inputs


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
    whole = decouple(load(model), groups=2, width=1.5)
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
