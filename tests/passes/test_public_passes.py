# SPDX-License-Identifier: Apache-2.0
"""The public passes in a user's own `Sequential`, on modules of TVM's own importer."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.relax.frontend.onnx import from_onnx

from decnn_tvm import passes
from decnn_tvm.frontend import to_onnx
from decnn_tvm.network import Network
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from tests.simulated_devices import Devices

GROUPS = 2


def test_exported_names():
    assert passes.__all__ == [
        "BindWeights",
        "CanonicalizeChannelSelection",
        "CutPipeline",
        "DecoupleConvolutions",
        "FoldBatchNorm",
        "FoldWeightTransforms",
        "InsertChannelShuffle",
        "KeepWhole",
        "LiftWeights",
        "NormalizeImages",
        "PropagatePlacement",
        "PropagateRows",
        "SplitRows",
        "SplitStages",
        "UseBlockedLayouts",
        "WidenChannels",
    ]
    for name in passes.__all__:
        assert getattr(passes, name).__module__.startswith("decnn_tvm.passes.")


def _partition(groups=None):
    return [
        passes.FoldBatchNorm(),
        passes.CanonicalizeChannelSelection(),
        passes.PropagatePlacement(groups=groups),
        passes.SplitStages(groups_per_device=1),
    ]


def _outputs(split, inputs):
    plan = plan_of(split)
    devices = Devices(plan, {1: split}, [(group,) for group in range(plan.groups)])
    return [next(iter(devices.run(**{plan.inputs[0]: x}).values())) for x in inputs]


@pytest.mark.parametrize("keep", [False, True], ids=["constants", "named weights"])
def test_a_dense_network_over_two_devices(keep):
    model = zoo.small("shufflenet_v1", image_size=32, blocks=(1, 1, 1))
    split = tvm.transform.Sequential(_partition(GROUPS))(
        from_onnx(model, keep_params_in_input=keep)
    )
    inputs = random_inputs((1, 3, 32, 32), 2)
    assert_logits_match(_outputs(split, inputs), reference_outputs(model, inputs))


@pytest.mark.parametrize("keep", [False, True], ids=["constants", "named weights"])
def test_a_decoupled_network_over_two_devices(keep):
    model = zoo.small("resnet18", image_size=32, width=0.25)
    change = [
        passes.WidenChannels(width=1.5, groups=GROUPS, multiple=GROUPS**2),
        passes.InsertChannelShuffle(groups=GROUPS, after="stage"),
        passes.DecoupleConvolutions(groups=GROUPS),
    ]
    mod = from_onnx(model, keep_params_in_input=keep)
    inputs = random_inputs((1, 3, 32, 32), 2)
    split = tvm.transform.Sequential([*change, *_partition()])(mod)
    plan = plan_of(split)
    assert plan.decoupled and plan.groups == GROUPS
    assert [m.kind for m in plan.movements] == ["input", *["all_to_all"] * 3, "output"]
    whole = to_onnx(Network("changed", tvm.transform.Sequential(change)(mod)))
    ours = _outputs(split, inputs)
    assert_logits_match(ours, reference_outputs(whole, inputs))
    assert not np.allclose(ours[0], reference_outputs(model, inputs)[0], atol=1e-2)
