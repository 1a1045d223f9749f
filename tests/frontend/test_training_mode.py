# SPDX-License-Identifier: Apache-2.0
"""Networks in training mode, which TVM imports as if they were for inference, are refused."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from tests.frontend.test_loading import assert_same, model_of

CHANNELS = 4


def batch_norm(outputs: list[str], *, opset: int, **attributes: int) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weights = {
        name: random.uniform(0.5, 1.5, CHANNELS).astype("float32")
        for name in ("scale", "shift", "mean", "variance")
    }
    node = helper.make_node(
        "BatchNormalization", ["x", *weights], ["b", *outputs], name="bn1", **attributes
    )
    nodes = [node, helper.make_node("Relu", ["b"], ["y"])]
    return model_of(nodes, shape=[2, CHANNELS, 5, 5], weights=weights, opset=opset)


def dropout(training: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "training"], ["a"], name="drop"),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    weights = {"ratio": np.array(0.5, "float32"), "training": np.array(training)}
    return model_of(nodes, shape=[1, 3, 4, 4], weights=weights)


def test_a_batch_norm_in_training_mode() -> None:
    model = batch_norm(["new_mean", "new_variance"], opset=17, training_mode=1)
    with pytest.raises(
        ModelError, match=r"BatchNormalization 'bn1' is in training mode.*eval mode"
    ):
        load(model)


def test_a_batch_norm_whose_statistics_are_read() -> None:
    model = batch_norm(["new_mean", "new_variance", "m", "v"], opset=9)
    model.graph.output.append(helper.make_tensor_value_info("new_mean", 1, None))
    with pytest.raises(ModelError, match="'bn1' is in training mode"):
        load(model)


def test_a_batch_norm_for_inference() -> None:
    model = batch_norm([], opset=17, training_mode=0)
    assert_same(load(model), model)


def test_a_dropout_in_training_mode() -> None:
    with pytest.raises(ModelError, match=r"Dropout 'drop' is in training mode.*eval mode"):
        load(dropout(True))
    model = dropout(False)
    assert_same(load(model), model)


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.BatchNorm2d(CHANNELS), "batch_norm"), (nn.Dropout(0.5), "dropout")]
)
def test_a_program_exported_in_training_mode(layer: nn.Module, name: str) -> None:
    sample = (torch.zeros(2, CHANNELS, 5, 5),)
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), layer)
    program = torch.export.export(network.train(), sample)
    with pytest.raises(ModelError, match=rf"{name}.*in training mode.*model\.eval\(\)"):
        load(program)
    assert load(torch.export.export(network.eval(), sample)).outputs[0].shape == (2, 4, 5, 5)


def test_a_decomposed_program_exported_in_training_mode() -> None:
    network = nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU()).train()
    program = torch.export.export(network, (torch.zeros(2, CHANNELS, 5, 5),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own
        program = program.run_decompositions()
    with pytest.raises(ModelError, match=r"in training mode.*model\.eval\(\)"):
        load(program)
