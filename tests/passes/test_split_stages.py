# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes import PropagatePlacement, SplitStages
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import Plan
from tests.modules import assert_close, drawn, network, run
from tests.simulated_devices import Devices, machine

op = relax.op


def _network():
    def body(emit, x, stem, conv, fc):
        y = emit(op.nn.relu(emit(op.nn.conv2d(x, stem))))
        y = emit(op.take(y, relax.const(np.array([0, 2, 1, 3], "int64")), axis=1))
        y = emit(op.nn.conv2d(y, conv, groups=2))
        return op.matmul(emit(op.mean(y, [2, 3])), fc)

    weights = {"stem": drawn(4, 3, 1, 1), "conv": drawn(4, 2, 3, 3), "fc": drawn(4, 5)}
    return network(body, (1, 3, 5, 5), weights=weights)


def _split(groups_per_device=1, **options):
    spread = PropagatePlacement(groups=2)(_network())
    return SplitStages(groups_per_device=groups_per_device, **options)(spread)


@I.ir_module
class OneGroup:
    @R.function
    def stage0(
        x: R.Tensor((1, 3, 5, 5), "float32"), stem: R.Tensor((2, 3, 1, 1), "float32")
    ) -> R.Tensor((1, 2, 5, 5), "float32"):
        R.func_attr({"num_input": 1, "decnn.input_blocks": [1], "decnn.output_blocks": [1]})
        with R.dataflow():
            y = R.nn.conv2d(x, stem)
            out = R.nn.relu(y)
            R.output(out)
        return out

    @R.function
    def stage1(
        y: R.Tensor((1, 2, 5, 5), "float32"),
        conv: R.Tensor((2, 2, 3, 3), "float32"),
        fc: R.Tensor((2, 5), "float32"),
    ) -> R.Tensor((1, 5), "float32"):
        R.func_attr({"num_input": 1, "decnn.input_blocks": [1], "decnn.output_blocks": [1]})
        with R.dataflow():
            z = R.nn.conv2d(y, conv)
            m = R.mean(z, axis=[2, 3], keepdims=False)
            out = R.matmul(m, fc)
            R.output(out)
        return out


def test_one_function_per_stage_on_local_shapes():
    split = _split()
    assert [*sorted(v.name_hint for v in split.get_global_vars())] == ["stage0", "stage1"]
    for name in ("stage0", "stage1"):
        tvm.ir.assert_structural_equal(
            relax.transform.CanonicalizeBindings()(tvm.IRModule({name: split[name]}))[name],
            OneGroup[name],
        )


def test_two_groups_on_a_device_are_a_group_convolution():
    assert "groups=2" in str(_split(2)["stage1"])
    assert "groups=2" not in str(_split(1)["stage1"])


def test_printing_saving_and_compiling():
    split = _split()
    assert "stage1" in split.script()
    loaded = tvm.ir.load_json(tvm.ir.save_json(split))
    tvm.ir.assert_structural_equal(loaded, split)
    assert plan_of(loaded) == plan_of(split)
    x, stem = drawn(1, 3, 5, 5), drawn(2, 3, 1, 1)
    ours = machine(loaded)["stage0"](tvm.runtime.tensor(x), tvm.runtime.tensor(stem)).numpy()
    assert_close(ours, np.maximum(np.einsum("bchw,oc->bohw", x, stem[:, :, 0, 0]), 0))


def test_the_plan_is_the_same_for_every_number_of_groups_on_a_device():
    one, two = _split(1), _split(2)
    assert str(one.attrs["decnn.plan"]) == str(two.attrs["decnn.plan"])
    plan = plan_of(one)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for name, slices in one.attrs["decnn.weights"].items():
        for a, b in zip(slices, two.attrs["decnn.weights"][name], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    again = _split(1)
    assert str(again.attrs["decnn.plan"]) == str(one.attrs["decnn.plan"])


@pytest.mark.parametrize(
    ("wire", "sent", "tolerance"),
    [("float32", "float32", 1e-5), ("float16", "float16", 2e-3), ("int8", "uint8", 1e-2)],
)
def test_the_wire_type_of_exchanges(wire, sent, tolerance):
    split = _split(wire=wire)
    plan = plan_of(split)
    moved = {m.kind: m.wire for m in plan.movements if not m.source.endswith("scale")}
    assert moved == {"input": "float32", "all_to_all": sent, "output": "float32"}
    assert all(plan.value(m.source).dtype == m.wire for m in plan.movements)
    x = drawn(1, 3, 5, 5)
    ours = Devices(plan, {1: split}, [(0,), (1,)]).run(x=x)
    assert_close(next(iter(ours.values())), run(_network(), x)[0], tolerance)


def _rounded_where_it_is_sent(x, scale):
    """The network in NumPy; `scale` maps what the exchange sends to the scales of its channels."""
    stem, conv, fc = drawn(4, 3, 1, 1), drawn(4, 2, 3, 3), drawn(4, 5)
    y = np.maximum(np.einsum("bchw,oc->bohw", x, stem[:, :, 0, 0]), 0)[:, [0, 2, 1, 3]]
    s = scale(y)
    y = np.clip(np.rint(y / s), 0, 255) * s
    windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), (2, 3))
    halves = [
        np.einsum("bchwij,ocij->bohw", windows[:, 2 * g : 2 * g + 2], conv[2 * g : 2 * g + 2])
        for g in (0, 1)
    ]
    return np.concatenate(halves, 1).mean((2, 3)) @ fc


def test_scales_per_message_are_those_of_the_sample():
    split = _split(wire="int8")
    plan = plan_of(split)
    (scales,) = (m for m in plan.movements if m.source.endswith(".scale"))
    assert (scales.kind, scales.wire) == ("all_to_all", "float32")
    assert plan.value(scales.source).shape == (1, 4, 1, 1)
    assert "inverse_scale" not in str([w.name for w in plan.weights])
    for seed in range(2):
        x = drawn(1, 3, 5, 5, seed=seed)
        ours = Devices(plan, {1: split}, [(0,), (1,)]).run(x=x)
        expected = _rounded_where_it_is_sent(x, lambda y: y.max((2, 3), keepdims=True) / 255)
        assert_close(next(iter(ours.values())), expected)


def test_calibrated_scales_are_weights_and_saturate():
    limits = {"take": np.array([1.0, 2.0, 0.5, 3.0], "float32")}
    for count in (1, 2):
        split = _split(count, wire="int8", limits=limits)
        plan = plan_of(split)
        assert [m.kind for m in plan.movements] == ["input", "all_to_all", "output"]
        x = drawn(1, 3, 5, 5)
        assignment = [(0,), (1,)] if count == 1 else [(0, 1)]
        ours = Devices(plan, {count: split}, assignment).run(x=x)
        expected = _rounded_where_it_is_sent(x, lambda _: limits["take"][:, None, None] / 255)
        assert_close(next(iter(ours.values())), expected)


def test_what_may_be_negative_travels_as_int8_and_a_vector_as_float32():
    def body(emit, x, stem, dense, fc):
        y = emit(op.take(emit(op.nn.conv2d(x, stem)), relax.const([0, 2, 1, 3], "int64"), axis=1))
        y = emit(op.mean(emit(op.nn.conv2d(y, dense, groups=2)), [2, 3]))
        return op.matmul(emit(op.take(y, relax.const([3, 1, 2, 0], "int64"), axis=1)), fc)

    weights = {"stem": drawn(4, 3, 1, 1), "dense": drawn(4, 2, 3, 3), "fc": drawn(4, 5)}
    net = network(body, (1, 3, 5, 5), weights=weights)
    split = SplitStages(wire="int8")(PropagatePlacement(groups=2)(net))
    plan = plan_of(split)
    wires = [m.wire for m in plan.movements if not m.source.endswith("scale")]
    assert wires == ["float32", "int8", "float32"]
    x = drawn(1, 3, 5, 5)
    ours = Devices(plan, {1: split}, [(0,), (1,)]).run(x=x)
    assert_close(next(iter(ours.values())), run(net, x)[0], 2e-2)


def test_what_cannot_be_split():
    with pytest.raises(PartitionError, match="run PropagatePlacement first"):
        SplitStages()(_network())
    with pytest.raises(PartitionError, match="2 channel groups"):
        _split(3)
    with pytest.raises(PartitionError, match=r"bfloat16.*int8"):
        SplitStages(wire="bfloat16")
    with pytest.raises(PartitionError, match="SplitStages"):
        plan_of(_network())
