# SPDX-License-Identifier: Apache-2.0
"""Rule by rule: placements, movements, and equality of the split network with the whole one."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes import PropagatePlacement, SplitStages
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import Partial, Replicated
from decnn_tvm.transfers import transfers
from tests.modules import assert_close, drawn, network, run
from tests.simulated_devices import Devices

op = relax.op


def conv(emit, x, w, **options):
    return emit(op.nn.conv2d(x, w, **{"padding": 1 if int(w.ty.shape[2]) == 3 else 0, **options}))


def check(mod, groups, *, devices=None, reasons=0, tolerance=1e-5):
    """Split `mod`, run it on simulated devices, compare it with the whole; return the plan."""
    spread = PropagatePlacement(groups=groups)(mod)
    given = json.loads(str(spread["main"].attrs["decnn.placement"]))["reasons"]
    assert len(given) == reasons, given
    shares = np.array_split(np.arange(groups), devices or groups)
    assignment = [tuple(share.tolist()) for share in shares]
    modules = {
        count: SplitStages(groups_per_device=count)(spread) for count in {*map(len, assignment)}
    }
    plan = plan_of(modules[min(modules)])
    shapes = [[int(e) for e in v.ty.shape] for v in mod["main"].params[: len(plan.inputs)]]
    inputs = [drawn(*shape, seed=5) for shape in shapes]
    results = Devices(plan, modules, assignment).run(**dict(zip(plan.inputs, inputs, strict=True)))
    for ours, reference in zip(results.values(), run(mod, *inputs), strict=True):
        assert_close(ours, reference, tolerance)
    return plan


def kinds(plan):
    return [movement.kind for movement in plan.movements]


def contiguous(plan):
    """Tell whether every message is one run, with one group on each device."""
    alone = [(group,) for group in range(plan.groups)]
    return all(
        len(transfer.runs) == 1
        for movement in plan.movements
        for transfer in transfers(plan, movement, alone)
    )


def test_one_group_is_one_stage():
    def body(emit, x, stem, fc):
        y = emit(op.mean(conv(emit, emit(op.nn.relu(conv(emit, x, stem))), stem), [2, 3]))
        return op.nn.softmax(emit(op.matmul(y, fc)))

    weights = {"stem": drawn(3, 3, 3, 3), "fc": drawn(3, 5)}
    plan = check(network(body, (1, 3, 7, 7), weights=weights), 1)
    assert kinds(plan) == ["input", "output"] and len(plan.stages) == 1
    assert {weight.combine for weight in plan.weights} == {"replicate"}


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize(("stride", "size"), [(1, 7), (2, 7), (3, 8)])
def test_stem_shards_its_outputs(groups, stride, size):
    mod = network(
        lambda emit, x, w, b: op.nn.relu(emit(op.add(conv(emit, x, w, strides=stride), b))),
        (1, 3, size, size),
        weights={"w": drawn(10, 3, 3, 3), "b": drawn(1, 10, 1, 1)},
    )
    plan = check(mod, groups)
    assert kinds(plan) == ["input", "output"]
    assert [w.combine for w in plan.weights] == ["concat", "concat"]
    assert isinstance(plan.value(plan.stages[0].inputs[0]).placement, Replicated)


@pytest.mark.parametrize(("groups", "devices"), [(2, 2), (4, 4), (4, 3), (4, 1)])
@pytest.mark.parametrize("conv_groups", [4, 8])
def test_group_convolutions_stay_local(groups, devices, conv_groups):
    def body(emit, x, stem, w, dw, v):
        y = conv(emit, x, stem)
        y = conv(emit, y, w, groups=conv_groups)
        y = conv(emit, y, dw, groups=16, strides=2)
        y = emit(op.nn.max_pool2d(y, (3, 3), strides=(2, 2), padding=(1, 1)))
        return conv(emit, y, v, groups=4)

    weights = {
        "stem": drawn(16, 3, 3, 3),
        "w": drawn(16, 16 // conv_groups, 3, 3),
        "dw": drawn(16, 1, 3, 3),
        "v": drawn(24, 4, 1, 1),
    }
    plan = check(network(body, (1, 3, 9, 7), weights=weights), groups, devices=devices)
    assert kinds(plan) == ["input", "output"]
    assert len(plan.stages) == 1


@pytest.mark.parametrize(("conv_groups", "groups"), [(2, 4), (2, 3), (3, 2), (5, 2), (3, 4)])
def test_group_convolutions_of_another_number_of_groups(conv_groups, groups):
    channels = 6 * conv_groups
    weights = {"stem": drawn(channels, 3, 1, 1), "w": drawn(channels, 6, 3, 3)}

    def body(emit, x, stem, w):
        return op.nn.relu(conv(emit, conv(emit, x, stem), w, groups=conv_groups))

    check(network(body, (1, 3, 5, 5), weights=weights), groups)


def test_residual_sum_needs_no_exchange():
    def body(emit, x, stem, a, b):
        y = conv(emit, x, stem)
        z = emit(op.nn.relu(conv(emit, y, a, groups=4)))
        return op.nn.relu(emit(op.add(conv(emit, z, b, groups=4), y)))

    weights = {"stem": drawn(16, 3, 3, 3), "a": drawn(16, 4, 3, 3), "b": drawn(16, 4, 3, 3)}
    plan = check(network(body, (1, 3, 6, 6), weights=weights), 4, devices=2)
    assert kinds(plan) == ["input", "output"]


@pytest.mark.parametrize(("groups", "devices"), [(2, 2), (4, 3)])
def test_concatenation_joins_ownership(groups, devices):
    def body(emit, x, a, b, w):
        parts = [conv(emit, x, a), emit(op.nn.relu(conv(emit, x, b)))]
        y = emit(op.concat(parts, 1))
        return conv(emit, y, w)

    weights = {"a": drawn(8, 3, 1, 1), "b": drawn(12, 3, 3, 3), "w": drawn(32, 20, 1, 1)}
    plan = check(network(body, (1, 3, 5, 5), weights=weights), groups, devices=devices)
    assert kinds(plan) == ["input", "all_gather", "output"]


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("groups", "devices"), [(4, 4), (4, 3), (3, 2)])
def test_flatten_and_dense_layers_give_partial_sums(order, groups, devices):
    def body(emit, x, stem, fc, bias, head, end):
        y = conv(emit, x, stem)
        if order == "NHWC":
            y = emit(op.permute_dims(y, [0, 2, 3, 1]))
        y = emit(op.reshape(y, (2, 12 * 5 * 3)))
        y = emit(op.nn.relu(emit(op.add(emit(op.matmul(y, fc)), bias))))
        return op.add(emit(op.matmul(y, head)), end)

    weights = {"stem": drawn(12, 3, 1, 1), "fc": drawn(180, 24), "bias": drawn(24)}
    weights |= {"head": drawn(24, 7), "end": drawn(1, 7)}
    mod = network(body, (2, 3, 5, 3), weights=weights)
    plan = check(mod, groups, devices=devices)
    assert kinds(plan) == ["input", "reduce_scatter", "output"]
    sums = {w.name: w.combine for w in plan.weights}
    assert sums["fc"] == sums["head"] == "concat"
    assert sums["end"] == "sum"
    assert isinstance(plan.value(plan.movements[-1].source).placement, Partial)


def test_softmax_gathers_and_says_why(caplog):
    def body(emit, x, stem):
        y = emit(op.mean(conv(emit, x, stem), [2, 3]))
        return op.nn.softmax(y, axis=-1)

    mod = network(body, (1, 3, 4, 4), weights={"stem": drawn(6, 3, 1, 1)})
    with caplog.at_level(logging.INFO, "decnn_tvm"):
        plan = check(mod, 3, reasons=1)
    assert "softmax over the sharded axis" in caplog.text
    assert "all_gather" in kinds(plan)


def test_operators_without_a_rule_run_replicated(caplog):
    def body(emit, x, stem):
        y = conv(emit, x, stem)
        return op.nn.relu(emit(op.cumsum(y, 1)))

    mod = network(body, (1, 3, 4, 4), weights={"stem": drawn(6, 3, 1, 1)})
    with caplog.at_level(logging.INFO, "decnn_tvm"):
        plan = check(mod, 2, reasons=1)
    assert "no placement rule" in caplog.text
    assert kinds(plan) == ["input", "all_gather", "output"]


@pytest.mark.parametrize(("channels", "kind"), [(8, "reduce_scatter"), (64, "all_gather")])
def test_a_dense_convolution_moves_the_fewer_bytes(channels, kind):
    def body(emit, x, stem, w, v):
        y = conv(emit, conv(emit, x, stem), w)
        return conv(emit, emit(op.nn.relu(y)), v, groups=4)

    weights = {
        "stem": drawn(32, 3, 1, 1),
        "w": drawn(channels, 32, 3, 3),
        "v": drawn(8, channels // 4, 1, 1),
    }
    plan = check(network(body, (1, 3, 5, 5), weights=weights), 4)
    assert kinds(plan) == ["input", kind, "output"]


@pytest.mark.parametrize(("begin", "end"), [(0, 4), (3, 12)])
def test_channel_slices(begin, end):
    def body(emit, x, stem):
        y = conv(emit, x, stem)
        part = emit(op.strided_slice(y, [1], [begin], [end], assume_inbound=True))
        rows = emit(op.strided_slice(part, [2], [1], [4], assume_inbound=True))
        return op.nn.relu(rows)

    mod = network(body, (1, 3, 5, 5), weights={"stem": drawn(12, 3, 1, 1)})
    plan = check(mod, 3)
    assert set(kinds(plan)) == {"input", "all_to_all", "output"}


def _shuffle(channels, groups):
    return relax.const(np.arange(channels).reshape(-1, groups).T.reshape(-1).astype("int64"))


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("chain", [0, 1, 3])
def test_a_shuffle_after_a_residual_chain_copies_nothing(groups, chain):
    """Each message is one contiguous run: the chain's convolutions absorbed the order."""
    channels = 4 * groups**2
    per_group = (channels, channels // groups, 3, 3)

    def body(emit, x, stem, last, **blocks):
        y = emit(op.nn.relu(conv(emit, x, stem)))
        for i in range(chain):
            z = emit(op.nn.relu(conv(emit, y, blocks[f"a{i}"], groups=groups)))
            z = conv(emit, z, blocks[f"b{i}"], groups=groups)
            y = emit(op.nn.relu(emit(op.add(z, y))))
        y = emit(op.take(y, _shuffle(channels, groups), axis=1))
        return op.mean(conv(emit, y, last, groups=groups), [2, 3])

    weights = {"stem": drawn(channels, 3, 3, 3), "last": drawn(*per_group, seed=9)}
    weights |= {f"{n}{i}": drawn(*per_group, seed=i) for n in "ab" for i in range(chain)}
    mod = network(body, (1, 3, 4, 4), weights=weights)
    plan = check(mod, groups)
    assert kinds(plan) == ["input", "all_to_all", "output"]
    assert contiguous(plan)
    check(mod, groups, devices=2)


def test_identical_demands_move_a_tensor_once():
    def body(emit, x, stem, a, b):
        y = conv(emit, x, stem)
        return conv(emit, y, a), conv(emit, y, b)

    weights = {"stem": drawn(4, 3, 1, 1), "a": drawn(8, 4, 1, 1), "b": drawn(8, 4, 3, 3)}
    plan = check(network(body, (1, 3, 5, 5), weights=weights), 2)
    assert kinds(plan).count("all_gather") == 1


def test_sum_of_two_inputs_and_several_outputs():
    def body(emit, x, y, w):
        z = emit(op.add(x, y))
        return emit(op.nn.relu(z)), conv(emit, z, w), z

    plan = check(network(body, (1, 3, 4, 4), (1, 3, 4, 4), weights={"w": drawn(6, 3, 1, 1)}), 2)
    assert plan.inputs == ("x", "y")
    assert len(plan.outputs) == 3


def test_a_weight_that_is_read_in_two_ways_is_sliced_in_two():
    def body(emit, x, w):
        y = conv(emit, x, w)
        return conv(emit, emit(op.nn.relu(y)), w)

    plan = check(network(body, (1, 8, 3, 3), weights={"w": drawn(8, 8, 3, 3)}), 2)
    assert len({w.name for w in plan.weights}) == len(plan.weights)


def test_division_of_padding_channels_falls_back():
    def body(emit, x, w, v):
        return op.divide(conv(emit, x, w), emit(op.exp(conv(emit, x, v))))

    weights = {"w": drawn(5, 3, 1, 1), "v": drawn(5, 3, 1, 1, seed=1)}
    mod = network(body, (1, 3, 3, 3), weights=weights)
    check(mod, 2, reasons=1)
    check(mod, 5)


def test_more_groups_than_channels():
    def body(emit, x, w, v):
        return op.mean(conv(emit, conv(emit, x, w), v), [2, 3])

    weights = {"w": drawn(3, 3, 1, 1), "v": drawn(2, 3, 3, 3)}
    check(network(body, (1, 3, 4, 4), weights=weights), 5)


def test_the_marked_function_holds_every_placement():
    mod = network(
        lambda emit, x, w: conv(emit, x, w), (1, 3, 2, 2), weights={"w": drawn(4, 3, 1, 1)}
    )
    spread = PropagatePlacement(groups=2)(mod)
    data = json.loads(str(spread["main"].attrs["decnn.placement"]))
    assert data["groups"] == 2 and data["decoupled"] is False
    bound = [b.var.name for b in spread["main"].body.blocks[0].bindings]
    assert {*data["values"]} >= {*bound[:-1]}
    assert "decnn.redistribute" in str(spread)


def test_wrong_numbers_of_groups():
    mod = network(lambda emit, x: op.nn.relu(x), (1, 4))
    with pytest.raises(PartitionError, match="not decoupled"):
        PropagatePlacement()(mod)
    with pytest.raises(PartitionError, match="groups=0"):
        PropagatePlacement(groups=0)(mod)
    decoupled = tvm.IRModule({"main": mod["main"].with_attr("decnn.groups", 4)})
    with pytest.raises(PartitionError, match="G=4"):
        PropagatePlacement(groups=3)(decoupled)
