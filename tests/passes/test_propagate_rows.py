# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from tvm.relax import op
from tvm.relax.op import nn

from decnn_tvm.calibration import rounded_values
from decnn_tvm.errors import PartitionError
from decnn_tvm.passes import PropagateRows, SplitStages
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.passes.stage_graph import StageGraph
from decnn_tvm.plan import Host, Strips
from tests.modules import assert_close, drawn, network, run
from tests.simulated_devices import Devices

KERNEL = {"w": drawn(4, 3, 3, 3)}
HALVES = {"w": drawn(4, 3, 2, 2)}
ONE = {"w": drawn(4, 3, 1, 1)}


def plain(emit, x, w):
    return nn.conv2d(x, w, padding=1)


def padded_below_alone(emit, x, w):
    return nn.conv2d(x, w, padding=(0, 0, 2, 1), strides=2)


def dilated(emit, x, w):
    return nn.conv2d(x, w, padding=(3, 1), dilation=(2, 1), strides=(1, 2))


def one_by_one_of_stride_two(emit, x, w):
    return nn.conv2d(x, w, strides=2)


def pools(emit, x, w):
    """Maxima of negative values beside padding; a rounded-up pool; averages with their padding."""
    y = emit(nn.conv2d(x, w))
    y = emit(op.subtract(emit(nn.relu(y)), emit(op.abs(y))))
    y = emit(nn.max_pool2d(y, (3, 3), strides=(2, 2), padding=(1, 1), ceil_mode=True))
    return nn.avg_pool2d(y, (3, 3), padding=(1, 1), count_include_pad=True)


def two_poolings(emit, x, w):
    """Nine rows, five, three: the rows run out before the strips do."""
    y = emit(nn.conv2d(x, w))
    for _ in range(2):
        y = emit(nn.max_pool2d(y, (3, 3), strides=(2, 1), padding=(1, 1)))
    return y


def averages_without_padding(emit, x, w):
    y = emit(nn.conv2d(x, w))
    return nn.avg_pool2d(y, (3, 3), padding=(1, 1), count_include_pad=False)


def residual(emit, x, w):
    y = emit(nn.relu(emit(nn.conv2d(x, w, padding=1))))
    z = emit(op.concat([emit(op.strided_slice(y, [1], [0], [3])), x], 1))
    z = emit(op.strided_slice(z, [1], [1], [4]))
    return op.add(emit(nn.conv2d(z, w, padding=1)), y)


def explicit_padding(emit, x, w):
    y = emit(nn.pad(x, (0, 0, 0, 0, 2, 1, 0, 1)))
    return nn.conv2d(y, w)


def global_mean(emit, x, w):
    y = emit(op.mean(emit(nn.conv2d(x, w, padding=1)), [2, 3], keepdims=True))
    return op.multiply(x, emit(op.strided_slice(y, [1], [0], [3])))


def flattened(emit, x, w):
    return op.reshape(emit(nn.conv2d(x, w, padding=1)), (1, -1))


def by_rows(emit, x, w):
    return op.cumsum(emit(nn.conv2d(x, w, padding=1)), 2)


BODIES = {
    plain: KERNEL,
    padded_below_alone: HALVES,
    dilated: KERNEL,
    one_by_one_of_stride_two: ONE,
    pools: ONE,
    two_poolings: ONE,
    averages_without_padding: ONE,
    residual: {"w": drawn(3, 3, 3, 3)},
    explicit_padding: KERNEL,
    global_mean: KERNEL,
    flattened: KERNEL,
    by_rows: KERNEL,
}


def split(mod, strips, counts=(1,)):
    spread = PropagateRows(strips=strips)(mod)
    return {count: SplitStages(groups_per_device=count)(spread) for count in counts}


def check(body, height, shares):
    net, x = network(body, (1, 3, height, 6), weights=BODIES[body]), drawn(1, 3, height, 6)
    modules = split(net, sum(shares), {*shares})
    ends = [0, *itertools.accumulate(shares)]
    assignment = [tuple(range(a, b)) for a, b in itertools.pairwise(ends)]
    plan = plan_of(next(iter(modules.values())))
    ours = Devices(plan, modules, assignment).run(x=x)
    assert_close(next(iter(ours.values())), run(net, x)[0])
    return plan


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_strips_compute_the_same(body):
    """An odd height over four strips, of which one device has two and another's is short."""
    check(body, 13, (1, 2, 1))


def test_some_devices_own_nothing_of_the_last_layers():
    plan = check(two_poolings, 9, (1,) * 5)
    assert plan.value(plan.outputs[0]).shape[2] == 3


def movements(body, height, strips, weights=KERNEL):
    net = network(body, (1, 3, height, 6), weights=weights)
    plan = plan_of(split(net, strips)[1])
    return plan, [(m.kind, plan.value(m.target).placement) for m in plan.movements]


def test_a_device_gets_the_rows_that_its_window_needs():
    plan, moves = movements(plain, 12, 3)
    assert moves == [("input", Strips(2, 4, -1, 2, "zero")), ("output", Host())]
    assert plan.strategy == "rows"
    assert plan.value(plan.movements[1].source).placement == Strips(2, 4)
    assert all(weight.combine == "replicate" for weight in plan.weights)


def test_halos_depend_on_window_stride_and_dilation():
    _, moves = movements(padded_below_alone, 11, 3, HALVES)  # 6 rows, of which y needs 2y, 2y + 1
    assert moves[0][1] == Strips(2, 4, 0, 0, "zero")
    _, moves = movements(dilated, 12, 3)
    assert moves[0][1] == Strips(2, 5, -3, 4, "zero")
    _, moves = movements(one_by_one_of_stride_two, 11, 3, ONE)
    assert moves[0][1] == Strips(2, 4)  # row 2y of each strip is there


def test_what_needs_no_neighbour_is_not_moved():
    def body(emit, x, w):
        y = emit(nn.relu(emit(nn.conv2d(x, w))))
        return nn.max_pool2d(y, (2, 2), strides=(2, 2))

    _, moves = movements(body, 8, 2, ONE)
    assert [kind for kind, _ in moves] == ["input", "output"]
    _, moves = movements(body, 6, 2, ONE)  # 3 rows each, of which the pool wants 4 and 2
    assert [kind for kind, _ in moves] == ["input", "halo", "output"]


def test_dense_layers_are_split_by_the_features_of_rows():
    def body(emit, x, w, v):
        y = emit(op.reshape(emit(nn.conv2d(x, w, padding=1)), (1, 4 * 5 * 6)))
        return op.matmul(y, v)

    weights = KERNEL | {"v": drawn(4 * 5 * 6, 2)}
    plan, moves = movements(body, 5, 2, weights)
    assert [kind for kind, _ in moves] == ["input", "halo", "output"]
    weight = plan.weight("v")
    assert weight.combine == "concat" and weight.shape == (3 * 4 * 6, 2)  # 3 rows of 5 in each half


def maxima(emit, x, w):
    """A layer whose values, some below zero, go to a pool beside padding, and a rectified one."""
    y = emit(nn.max_pool2d(emit(nn.conv2d(x, w)), (3, 3), padding=(1, 1)))
    return nn.max_pool2d(emit(nn.relu(y)), (3, 3), padding=(1, 1))


@pytest.mark.parametrize(
    ("wire", "calibrated", "wires"),
    [
        ("float16", False, ["float16", "float16"]),
        ("int8", True, ["int8", "uint8"]),
        ("int8", False, ["float32", "uint8", "float32"]),  # rows that are not sent have no scale
    ],
)
def test_narrow_halos(wire, calibrated, wires):
    net, x = network(maxima, (1, 3, 9, 6), weights=ONE), drawn(1, 3, 9, 6)
    spread = PropagateRows(strips=2)(net)
    limits = {}
    if calibrated:
        found = StageGraph(spread["main"], "int8")
        limits = {v.name: np.full(4, 8.0, "float32") for v in rounded_values(found)}
    mod = SplitStages(wire=wire, limits=limits)(spread)
    plan = plan_of(mod)
    assert [m.wire for m in plan.movements if m.kind == "halo"] == wires
    ours = next(iter(Devices(plan, {1: mod}, [(0,), (1,)]).run(x=x).values()))
    expected = run(net, x)[0]
    assert 0 < np.abs(ours - expected).max() <= 8 / 127
    assert np.abs(expected).max() > 1


def test_bad_numbers_are_refused():
    with pytest.raises(PartitionError, match="strips=0"):
        PropagateRows(strips=0)
    net = network(plain, (1, 3, 9, 6), weights=KERNEL)
    with pytest.raises(PartitionError, match=r"8 strips of the 9 rows of 'x'.*at most 5 workers"):
        PropagateRows(strips=8)(net)
