# SPDX-License-Identifier: Apache-2.0
"""Attributes of ONNX operators that TVM's importer ignores or reads otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from decnn_tvm.testing.equality import random_inputs
from decnn_tvm.testing.execution import plain_outputs
from tests.frontend.test_loading import assert_same, model_of, operators


def transposed(kernel: int = 3, **attributes: object) -> onnx.ModelProto:
    weights = {"w": random_inputs((3, 4, kernel, kernel), 1)[0]}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **attributes)
    return model_of([node], shape=[1, 3, 8, 8], weights=weights)


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("kernel", "shape"), [(3, [16, 16]), (3, [15, 17]), (5, [16, 17]), (2, [13, 16])]
)
def test_transposed_convolution_of_an_output_shape(
    kernel: int, shape: list[int], mode: str
) -> None:
    model = transposed(kernel, output_shape=shape, auto_pad=mode)
    network = load(model)
    assert network.outputs[0].shape == (1, 4, *shape)
    assert_same(network, model)


def test_transposed_convolution_of_a_larger_output_shape() -> None:
    model = transposed(1, output_shape=[16, 16])
    assert_same(load(model), model)


MODES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


def resized(size: int, scale: float, *, coordinates: str, mode: str) -> onnx.ModelProto:
    node = helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor",
    )
    weights = {"scales": np.array([1, 1, scale, scale], "float32")}
    return model_of([node], shape=[1, 2, size, size], weights=weights)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize(("size", "scale"), [(8, 1.5), (7, 2.0), (9, 1 / 3)])
def test_resize_to_whole_sizes(size: int, scale: float, coordinates: str, mode: str) -> None:
    model = resized(size, scale, coordinates=coordinates, mode=mode)
    assert_same(load(model), model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", MODES[:3])
def test_resize_by_a_scale_that_gives_no_whole_size(coordinates: str, mode: str) -> None:
    model = resized(7, 1.5, coordinates=coordinates, mode=mode)
    with pytest.raises(ModelError, match=r"7 times 1\.5 is no whole number.*sizes instead"):
        load(model)


def test_resize_of_channels() -> None:
    model = resized(8, 1.5, coordinates="half_pixel", mode="nearest")
    scales = np.array([1, 2, 2, 2], "float32")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(scales, "scales"))
    with pytest.raises(ModelError, match="only heights and widths"):
        load(model)


@pytest.mark.parametrize(
    "extra", [{"antialias": 1}, {"keep_aspect_ratio_policy": "not_larger"}, {"axes": [2, 3]}]
)
def test_resize_as_tvm_has_none(extra: dict[str, object]) -> None:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", **extra)
    sizes = [12, 12] if "axes" in extra else [1, 2, 12, 12]
    model = model_of([node], shape=[1, 2, 8, 8], weights={"sizes": np.array(sizes)}, opset=18)
    with pytest.raises(ModelError, match="antialias, axes or a keep_aspect_ratio_policy"):
        load(model)


@pytest.mark.parametrize("bounds", [(0.5, -0.5), (0.0, -1.0), (-1.0, -1.0)])
def test_clip_with_bounds_in_the_wrong_order(bounds: tuple[float, float]) -> None:
    weights = {k: np.array(v, "float32") for k, v in zip(("a", "b"), bounds, strict=True)}
    nodes = [
        helper.make_node("Clip", ["x", "a", "b"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = model_of(nodes, shape=[1, 3, 4, 4], weights=weights)
    assert_same(load(model), model)


def test_relu_below_a_negative_bound() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Min", ["a", "high"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    model = model_of(nodes, shape=[1, 3, 4, 4], weights={"high": np.array(-1.0, "float32")})
    assert_same(load(model), model)


def test_hardtanh_of_a_program_with_bounds_in_the_wrong_order() -> None:
    class Clamped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.clamp(0.5, -0.5)

    x = random_inputs((1, 3, 4, 4), 1)[0]
    network = load(torch.export.export(Clamped().eval(), (torch.from_numpy(x),)))
    assert {"relax.minimum", "relax.maximum"} <= set(operators(network))
    ((ours,),) = plain_outputs(network.module, [x])
    assert np.array_equal(ours, Clamped()(torch.from_numpy(x)).numpy())
