# SPDX-License-Identifier: Apache-2.0
"""Every wire type against ONNX Runtime running the network with the same rounding written into it.

The reference is the decoupled network's own ONNX file with a few nodes more behind every channel
shuffle. Its scales come from ONNX Runtime too, by the definition of the default method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.plan import Sharded, Value
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import (
    all_reference_outputs,
    assert_logits_match,
    random_inputs,
    reference_outputs,
)
from decnn_tvm.testing.split_execution import split_outputs, temporary_package
from decnn_tvm.testing.stages import to_blocks

HEADROOM, LEVELS = 1.5, 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLIPPED = 5e-4
"""What a value that falls to the other integer changes; `check_stages` is strict."""
Array = Any


@pytest.fixture(scope="module")
def network() -> Network:
    return decouple(load(zoo.small("resnet18")), groups=2, width=1.5)


@pytest.fixture(scope="module")
def model(network: Network) -> onnx.ModelProto:
    return to_onnx(network)


def shuffled(model: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that channel shuffles give, which is what is exchanged."""
    transposed = {node.output[0] for node in model.graph.node if node.op_type == "Transpose"}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Reshape" and node.input[0] in transposed
    ]


def calibrated_scales(model: onnx.ModelProto, samples: list[Array]) -> list[Array]:
    """Return (1, C, 1, 1) scales of every exchange, from what ONNX Runtime computes there."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in shuffled(model):
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    runs = [outputs[-len(shuffled(model)) :] for outputs in all_reference_outputs(watched, samples)]
    peaks = [
        np.max([value.max((0, 2, 3)) for value in values], 0) for values in zip(*runs, strict=True)
    ]
    # A channel that is always zero takes the widest range of the tensor.
    peaks = [np.where(peak > 0, peak, peak.max()) for peak in peaks]
    return [(HEADROOM * p / LEVELS).astype("float32")[None, :, None, None] for p in peaks]


Rounding = Callable[[str, int], Iterator[onnx.NodeProto]]


def with_rounding(model: onnx.ModelProto, rounding: Rounding) -> onnx.ModelProto:
    """Return `model` with the nodes of ``rounding(tensor, index)`` behind every shuffle."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    names = shuffled(model)
    assert len(names) == 3
    for node in model.graph.node:
        result.graph.node.append(node)
        read = [f"{n}_rounded" if n in names else n for n in node.input]
        result.graph.node[-1].input[:] = read
        for name in set(node.output) & set(names):
            result.graph.node.extend(rounding(name, names.index(name)))
    return result


def constant(name: str, value: Array) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.asarray(value, "float32"), name)
    return helper.make_node("Constant", [], [name], value=tensor)


def to_float16(name: str, _: int) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Cast", [name], [f"{name}_half"], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [f"{name}_half"], [f"{name}_rounded"], to=TensorProto.FLOAT)


def to_integers(name: str) -> Iterator[onnx.NodeProto]:
    """Round `name` to multiples of the tensor `name_scale`."""
    yield helper.make_node("Div", [name, f"{name}_scale"], [f"{name}_scaled"])
    yield helper.make_node("Round", [f"{name}_scaled"], [f"{name}_whole"])
    yield constant(f"{name}_low", 0)
    yield constant(f"{name}_high", LEVELS)
    ends = [f"{name}_low", f"{name}_high"]
    yield helper.make_node("Clip", [f"{name}_whole", *ends], [f"{name}_kept"])
    yield helper.make_node("Mul", [f"{name}_kept", f"{name}_scale"], [f"{name}_rounded"])


def scaled_by_its_peak(name: str, _: int) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("GlobalMaxPool", [name], [f"{name}_peak"])
    yield constant(f"{name}_levels", LEVELS)
    yield helper.make_node("Div", [f"{name}_peak", f"{name}_levels"], [f"{name}_peak_scale"])
    yield constant(f"{name}_tiny", 1e-30)
    yield helper.make_node("Max", [f"{name}_peak_scale", f"{name}_tiny"], [f"{name}_scale"])
    yield from to_integers(name)


def check(
    package: Package,
    inputs: list[Array],
    rounded: onnx.ModelProto,
    exact: list[Array],
    tolerance: float = 1e-4,
) -> None:
    """The package must equal the rounded network, and must differ from the exact one."""
    ours = split_outputs(package, inputs, (1, 1))
    assert_logits_match(ours, reference_outputs(rounded, inputs), tolerance)
    largest = max(np.abs(y).max() for y in exact)
    errors = [np.abs(a - b).max() / largest for a, b in zip(ours, exact, strict=True)]
    assert 1e-5 < max(errors) < 0.2


def check_stages(package: Package, inputs: list[Array], rounded: onnx.ModelProto) -> None:
    """Each stage, on the integers of the reference, must give its integers, give or take one.

    So a value that lies between two integers, and falls to the other side here, counts once.
    """
    plan, groups = package.plan, tuple(range(package.plan.groups))
    path = package.file(package.library("host", len(groups)))
    library = StageLibrary(path, plan, DeviceWeights(package, groups))
    names = shuffled(rounded)
    watched = onnx.ModelProto()
    watched.CopyFrom(rounded)
    for name in [f"{n}_{what}" for n in names for what in ("kept", "scale")]:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for x, (logits, *seen) in zip(inputs, all_reference_outputs(watched, inputs), strict=True):
        expected = {name: seen[i : i + 2] for name, i in zip(names, (0, 2, 4), strict=True)}
        arrived = [x]
        for stage, name in zip(plan.stages[:-1], names, strict=True):
            sent = library(stage.function, arrived)
            whole, scale = expected[name]
            source = [
                local(plan.value(n), v) for n, v in zip(stage.outputs, (whole, scale), strict=False)
            ]
            distance = np.abs(sent[0].astype(int) - source[0].astype(int))
            assert distance.max() <= 1 and (distance > 0).mean() < 1e-3
            for ours, theirs in zip(sent[1:], source[1:], strict=True):
                assert np.abs(ours - theirs).max() <= 1e-6 * theirs.max()
            following = plan.stages[plan.stages.index(stage) + 1].inputs
            arrived = [
                local(plan.value(n), v) for n, v in zip(following, (whole, scale), strict=False)
            ]
        ours = library(plan.stages[-1].function, arrived)[0]
        assert np.abs(ours - logits).max() <= 1e-5 * np.abs(logits).max()


def local(value: Value, whole: Array) -> Array:
    """Return a whole tensor as a device with all channel groups holds it."""
    assert isinstance(value.placement, Sharded)
    indices = [index for group in value.placement.groups for index in group]
    held = np.ascontiguousarray(whole[:, indices]).astype(value.dtype)
    return to_blocks(held, value.block)


def wires(package: Package, kind: str) -> list[str]:
    return [m.wire for m in package.plan.movements if m.kind == kind]


def test_float16(network: Network, model: onnx.ModelProto) -> None:
    inputs = random_inputs((1, 3, 64, 64), 3, seed=5)
    with temporary_package(network, workers=2, wire="float16") as package:
        assert wires(package, "all_to_all") == ["float16"] * 3
        exact = reference_outputs(model, inputs)
        check(package, inputs, with_rounding(model, to_float16), exact)


def test_int8_calibrated(network: Network, model: onnx.ModelProto) -> None:
    inputs = random_inputs((1, 3, 64, 64), 3, seed=5)
    samples = random_inputs((1, 3, 64, 64), 8, seed=6)
    scales = calibrated_scales(model, samples)

    def rounding(name: str, index: int) -> Iterator[onnx.NodeProto]:
        yield constant(f"{name}_scale", scales[index])
        yield from to_integers(name)

    options = {"wire": "int8", "calibration": iter(samples)}
    with temporary_package(network, workers=2, all_shares=True, **options) as package:
        assert wires(package, "all_to_all") == ["uint8"] * 3
        exact, rounded = reference_outputs(model, inputs), with_rounding(model, rounding)
        check(package, inputs, rounded, exact, FLIPPED)
        check_stages(package, inputs, rounded)


@pytest.mark.slow
def test_int8_scaled_per_message(network: Network, model: onnx.ModelProto) -> None:
    inputs = random_inputs((1, 3, 64, 64), 3, seed=5)
    with temporary_package(network, workers=2, all_shares=True, wire="int8") as package:
        assert wires(package, "all_to_all") == ["uint8", "float32"] * 3
        exact = reference_outputs(model, inputs)
        rounded = with_rounding(model, scaled_by_its_peak)
        check(package, inputs, rounded, exact, FLIPPED)
        check_stages(package, inputs, rounded)


def test_pixels_are_normalized_before_they_are_padded(
    network: Network, model: onnx.ModelProto
) -> None:
    random = np.random.default_rng(3)
    pixels = [random.integers(0, 256, (1, 3, 64, 64), dtype="uint8") for _ in range(3)]
    pixels[0][:] = 0  # with zeros padded first, this would be the same all over
    mean, std = (np.array(x, "float32").reshape(1, 3, 1, 1) for x in (MEAN, STD))
    numbers = [((x / np.float32(255) - mean) / std).astype("float32") for x in pixels]
    options = {"image_mean": MEAN, "image_std": STD, "all_shares": True}
    with temporary_package(network, workers=2, **options) as package:
        assert wires(package, "input") == ["uint8"]
        reference = reference_outputs(model, numbers)
        for shares in ((2,), (1, 1)):
            assert_logits_match(split_outputs(package, pixels, shares), reference, 1e-5)
