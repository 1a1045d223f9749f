# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load, save_onnx, to_onnx
from decnn_tvm.network import GROUPS_ATTR, Network
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import (
    all_reference_outputs,
    assert_logits_match,
    random_inputs,
    reference_outputs,
)
from decnn_tvm.testing.execution import plain_outputs


@pytest.mark.parametrize("name", zoo.MODELS)
def test_round_trip_equals_the_original(name: str) -> None:
    model = zoo.small(name)
    network = load(model)
    written = to_onnx(network)
    inputs = random_inputs(network.inputs[0].shape, 3)
    assert_logits_match(reference_outputs(written, inputs), reference_outputs(model, inputs), 1e-5)
    kinds = [node.op_type for node in model.graph.node]
    assert [n.op_type for n in written.graph.node].count("Conv") == kinds.count("Conv")
    again = load(written)
    ours, theirs = weight_values(again.function), weight_values(network.function)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert (again.inputs, again.outputs) == (network.inputs, network.outputs)


def test_groups_survive(tmp_path: Path) -> None:
    network = load(zoo.small("resnet18"))
    module = network.module.clone()
    module["main"] = network.function.with_attr(GROUPS_ATTR, 4)
    save_onnx(Network("decoupled", module), tmp_path / "net.onnx")
    assert load(tmp_path / "net.onnx").groups == 4
    assert network.groups is None


def test_damaged_groups_are_refused() -> None:
    model = zoo.small("alexnet")
    onnx.helper.set_model_props(model, {GROUPS_ATTR: "four"})
    with pytest.raises(ModelError, match=r"metadata decnn.groups is 'four'"):
        load(model)


def test_unwritable_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't write"):
        save_onnx(load(zoo.small("alexnet")), tmp_path / "absent" / "net.onnx")


def built(write: object, *shapes: tuple[int, ...]) -> Network:
    builder = relax.BlockBuilder()
    names = "xyz"
    params = [
        relax.Var(n, relax.TensorType(s, "float32")) for n, s in zip(names, shapes, strict=False)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(write(*params)))  # type: ignore[operator]
        builder.emit_func_output(result)
    return Network("built", builder.get())


IMAGE = (2, 4, 6, 6)
OPERATORS = {
    "abs": lambda x: relax.op.abs(x),
    "adaptive": lambda x: relax.op.nn.adaptive_avg_pool2d(x, (4, 5)),
    "astype": lambda x: relax.op.astype(relax.op.greater(x, relax.const(0.5)), "float32"),
    "broadcast": lambda x: relax.op.broadcast_to(relax.op.mean(x, [2], True), IMAGE),
    "ceil_pool": lambda x: relax.op.nn.max_pool2d(x, (3, 3), (2, 2), ceil_mode=True),
    "average_pool": lambda x: relax.op.nn.avg_pool2d(x, (3, 3), (2, 2), (1, 0, 1, 2)),
    "cubic": lambda x: relax.op.image.resize2d(x, (9, 11), method="cubic"),
    "expand": lambda x: relax.op.squeeze(relax.op.expand_dims(x, [0, 3]), [0]),
    "gelu": lambda x: relax.op.nn.gelu(x),
    "gelu_tanh": lambda x: relax.op.nn.gelu_tanh(x),
    "leaky": lambda x: relax.op.nn.leakyrelu(x, 0.2),
    "linear_resize": lambda x: relax.op.image.resize2d(
        x, (12, 9), method="linear", coordinate_transformation_mode="align_corners"
    ),
    "log_softmax": lambda x: relax.op.nn.log_softmax(x, 1),
    "max": lambda x: relax.op.max(x, [2, 3]),
    "nearest": lambda x: relax.op.image.resize2d(
        x,
        (12, 12),
        method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    ),
    "pad": lambda x: relax.op.nn.pad(x, [0, 0, 0, 0, 1, 2, 0, 1], "constant", 0.5),
    "power": lambda x: relax.op.power(relax.op.abs(x), relax.const(1.5)),
    "rsqrt": lambda x: relax.op.rsqrt(relax.op.exp(x)),
    "silu": lambda x: relax.op.nn.silu(x),
    "slice": lambda x: relax.op.strided_slice(x, [2, 3], [1, 0], [5, 6], [1, 2]),
    "softmax": lambda x: relax.op.nn.softmax(x, -1),
    "split": lambda x: relax.op.split(x, [1, 3], 1),
    "sum": lambda x: relax.op.sum(relax.op.square(x), [1], True),
    "take": lambda x: relax.op.take(x, relax.const(np.array([3, 1])), 1),
    "tuple": lambda x: relax.Tuple([relax.op.tanh(x), relax.op.erf(x)]),
    "variance": lambda x: relax.op.variance(x, [2, 3]),
    "where": lambda x: relax.op.where(relax.op.less(x, relax.const(0.0)), relax.op.sin(x), x),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_equals_plain_tvm(name: str) -> None:
    network = built(OPERATORS[name], IMAGE)
    inputs = random_inputs(IMAGE, 2)
    ours = all_reference_outputs(to_onnx(network), inputs)
    theirs = plain_outputs(network.module, inputs)
    for index in range(len(theirs[0])):
        assert_logits_match([r[index] for r in ours], [r[index] for r in theirs], 2e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_attributes(groups: int) -> None:
    def write(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        return relax.op.nn.conv2d(x, y, (2, 1), (0, 1, 2, 1), (1, 2), groups)

    shapes = IMAGE, (6, 4 // groups, 3, 2)
    assert_two_operands_match(write, *shapes)


def test_transposed_convolution_attributes() -> None:
    def write(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        return relax.op.nn.conv2d_transpose(x, y, (2, 2), (1, 1, 1, 1), (1, 1))

    assert_two_operands_match(write, IMAGE, (4, 3, 3, 3))


def test_prelu_slopes() -> None:
    assert_two_operands_match(lambda x, y: relax.op.nn.prelu(x, y, 1), IMAGE, (4,))


def assert_two_operands_match(write: object, *shapes: tuple[int, ...]) -> None:
    network = built(write, *shapes)
    feeds = [
        {
            "x": random_inputs(shapes[0], 1, seed=s)[0],
            "y": random_inputs(shapes[1], 1, seed=s + 9)[0],
        }
        for s in range(2)
    ]
    ours = reference_outputs(to_onnx(network), feeds)
    assert_logits_match(ours, [r[0] for r in plain_outputs(network.module, feeds)], 2e-6)


def test_unknown_operator_is_named() -> None:
    network = built(lambda x: relax.op.cumsum(x, 1), IMAGE)
    with pytest.raises(ModelError, match=r"the operator relax.cumsum"):
        to_onnx(network)


def test_other_layouts_are_refused() -> None:
    network = built(
        lambda x, y: relax.op.nn.conv2d(x, y, data_layout="NHWC", kernel_layout="HWIO"),
        (1, 6, 6, 4),
        (3, 3, 4, 2),
    )
    with pytest.raises(ModelError, match="data_layout 'NHWC'"):
        to_onnx(network)


def test_a_module_without_main_is_no_network() -> None:
    with pytest.raises(ModelError, match="no function 'main'"):
        Network("empty", tvm.IRModule({}))
