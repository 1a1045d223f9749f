# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest

from decnn_tvm.frontend import load
from decnn_tvm.inspection import Inspection, inspect_network
from decnn_tvm.testing import zoo


def inspected(name: str, **options: object) -> Inspection:
    return inspect_network(load(zoo.small(name, **options)))


def test_resnet50_has_the_published_cost() -> None:
    report = inspect_network(load(zoo.resnet(50)))
    assert report.macs == pytest.approx(4.09e9, rel=2e-3)
    weighted = sum(layer.parameters for layer in report.layers if layer.macs)
    assert weighted == 25_502_912  # without the bias of the dense layer, which is an addition
    norms = sum(layer.parameters for layer in report.layers if layer.kind == "nn.batch_norm")
    assert norms == 4 * 26_560
    assert report.parameters == weighted + norms + 1000


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_weight_is_counted_once(name: str) -> None:
    model = zoo.small(name)
    roles = (".weight", ".bias", ".running_mean", ".running_var")
    weights = [w for w in model.graph.initializer if w.name.endswith(roles)]
    assert inspect_network(load(model)).parameters == sum(math.prod(w.dims) for w in weights)


def test_resnet_decouples_all_but_the_stem() -> None:
    convolutions = [x for x in inspected("resnet18").layers if x.kind == "conv2d"]
    assert {x.name: x.reason for x in convolutions if not x.can_decouple} == {
        "conv1": "stem: 3 input channels"
    }
    assert len(convolutions) == 12


def test_reasons_name_what_stands_against_it() -> None:
    layers = {x.name: x for x in inspected("shufflenet_v1").layers}
    assert layers["stage2.0.conv1"].can_decouple
    assert layers["stage2.0.conv2"].reason == "depthwise"
    assert layers["stage2.0.conv3"].reason == "already grouped (3 groups)"
    assert layers["fc"].reason.startswith("dense layer")
    squeeze = {x.name: x for x in inspected("squeezenet").layers}
    assert squeeze["classifier.1"].reason.startswith("classifier")


def test_channels_that_do_not_divide_are_named() -> None:
    report = inspect_network(load(zoo.small("squeezenet")), groups=16)
    layers = {x.name: x for x in report.layers}
    assert layers["features.3.squeeze"].reason == "8 output channels are not divisible by 16"


def test_json_holds_layers_and_totals() -> None:
    report = inspected("alexnet")
    data = json.loads(report.to_json())
    assert data["totals"]["macs"] == report.macs
    assert data["inputs"] == [{"name": "input", "shape": [1, 3, 96, 96], "dtype": "float32"}]
    assert data["outputs"][0]["shape"] == [1, 10]
    first = next(x for x in data["layers"] if x["kind"] == "conv2d")
    assert first["activation_bytes"] == 4 * 16 * 23 * 23
