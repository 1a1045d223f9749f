# SPDX-License-Identifier: Apache-2.0
"""Old and roundabout forms of ONNX that are legal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from decnn_tvm.testing.equality import random_inputs
from tests.frontend.test_loading import assert_same, model_of


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_a_mask_of_dropout_that_nobody_reads(opset: int) -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["a", "mask"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    model = model_of(nodes, shape=[1, 3, 4, 4], opset=opset)
    assert_same(load(model), model)


def test_indices_of_pooling_that_nobody_reads() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])
    model = model_of([node], shape=[1, 3, 4, 4])
    assert_same(load(model), model)


def test_an_output_that_is_read_stays() -> None:
    model = model_of(
        [helper.make_node("Split", ["x"], ["y", "unread"], axis=1)], shape=[1, 4, 4, 4], opset=11
    )
    assert load(model).outputs[0].shape == (1, 2, 4, 4)
    assert_same(load(model), model)


def test_a_batch_norm_of_opset_9_with_all_its_outputs() -> None:
    random = np.random.default_rng(3)
    names = ("scale", "shift", "mean", "variance")
    weights = {name: random.uniform(0.5, 1.5, 4).astype("float32") for name in names}
    outputs = ["y", "new_mean", "new_variance", "saved_mean", "saved_variance"]
    node = helper.make_node("BatchNormalization", ["x", *names], outputs)
    model = model_of([node], shape=[1, 4, 5, 5], weights=weights, opset=9)
    plain = model_of(
        [helper.make_node("BatchNormalization", ["x", *names], ["y"])],
        shape=[1, 4, 5, 5],
        weights=weights,
        opset=9,
    )
    assert_same(load(model), plain)


def with_weight_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in IR version 3, where weights are inputs too."""
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    return model


@pytest.mark.parametrize("kind", ["Slice", "Upsample"])
def test_weights_as_inputs_beside_an_operator_to_convert(kind: str) -> None:
    weights = {"w": random_inputs((4, 3, 3, 3), 1)[0]}
    if kind == "Slice":
        last = helper.make_node("Slice", ["a"], ["y"], axes=[1], starts=[1], ends=[3])
    else:
        last = helper.make_node("Upsample", ["a", "scales"], ["y"], mode="nearest")
        weights["scales"] = np.array([1, 1, 2, 2], "float32")
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), last]
    model = with_weight_inputs(model_of(nodes, shape=[1, 3, 6, 6], weights=weights, opset=9))
    network = load(model)
    assert [x.name for x in network.inputs] == ["x"]
    assert_same(network, model)


@pytest.mark.parametrize("scales", [(2, 2), (0.5, 0.5), (2 / 3, 1), (1, 1.5)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10(mode: str, scales: tuple[float, float]) -> None:
    node = helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)
    weights = {"scales": np.array([1, 1, *scales], "float32")}
    model = model_of([node], shape=[1, 3, 6, 6], weights=weights, opset=10)
    assert_same(load(model), model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_of_opset_9(mode: str) -> None:
    node = helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)
    weights = {"scales": np.array([1, 1, 2, 1.5], "float32")}
    model = model_of([node], shape=[1, 3, 6, 6], weights=weights, opset=9)
    assert_same(load(model), model)


def test_resize_of_opset_10_both_ways() -> None:
    node = helper.make_node("Resize", ["x", "scales"], ["y"], mode="nearest")
    weights = {"scales": np.array([1, 1, 2, 0.5], "float32")}
    with pytest.raises(ModelError, match="shrinks and grows at once, before opset 11"):
        load(model_of([node], shape=[1, 3, 6, 6], weights=weights, opset=10))


def test_resize_with_empty_scales() -> None:
    node = helper.make_node("Resize", ["x", "roi", "scales", "sizes"], ["y"], mode="linear")
    weights = {
        "roi": np.zeros(0, "float32"),
        "scales": np.zeros(0, "float32"),
        "sizes": np.array([1, 3, 9, 10]),
    }
    model = model_of([node], shape=[1, 3, 6, 6], weights=weights, opset=11)
    assert_same(load(model), model)


def test_a_constant_without_a_value() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    with pytest.raises(ModelError, match="Constant 'c' has no value"):
        load(model_of(nodes, shape=[1, 3]))
