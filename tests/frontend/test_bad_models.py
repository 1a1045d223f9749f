# SPDX-License-Identifier: Apache-2.0
"""What is no network, or no number of samples, ends in our own errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from tests.frontend.test_loading import model_of, relu_model


@pytest.mark.parametrize("ending", ["prototxt", "json", "onnxtxt", "textproto"])
def test_a_text_file_of_another_tool(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"deploy.{ending}"
    path.write_text('name: "LeNet"\nlayer { name: "data" type: "Input" }\n')
    with pytest.raises(ModelError, match=rf"deploy\.{ending} is not"):
        load(path)
    path.write_bytes(relu_model().SerializeToString())
    assert load(path).name == "deploy"


@pytest.mark.parametrize("batch", [0, -1, "2", 1.5, None])
def test_a_batch_that_is_no_count(batch: Any) -> None:
    with pytest.raises(ModelError, match=f"batch is {batch!r}: expected a whole number, 1 or more"):
        load(relu_model(), batch=batch)


def test_a_network_that_computes_nothing() -> None:
    same = [helper.make_node("Identity", ["x"], ["y"])]
    turned = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0]),
        helper.make_node("Transpose", ["a"], ["y"], perm=[1, 0]),
    ]
    for nodes in (same, turned):
        with pytest.raises(ModelError, match="the network computes nothing"):
            load(model_of(nodes, shape=[2, 3]))
