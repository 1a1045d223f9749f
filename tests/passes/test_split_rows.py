# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import relax

from decnn_tvm.errors import PartitionError
from decnn_tvm.passes import PropagatePlacement, SplitRows, SplitStages
from decnn_tvm.passes.split_stages import plan_of
from tests.modules import assert_close, drawn, network, run
from tests.simulated_devices import Devices

op, nn = relax.op, relax.op.nn
SHUFFLE = np.array([0, 2, 1, 3], "int64")


def _shuffled(emit, x):
    return emit(op.take(x, relax.const(SHUFFLE), axis=1))


def _behind(emit, x, w, b, **options):
    return emit(nn.relu(emit(op.add(emit(nn.conv2d(x, w, groups=2, **options)), b))))


def _two_readers(emit, x, stem, a, b, bias, c):
    """A residual sum before the exchange; behind it two strided layers of other kernels."""
    y = emit(nn.relu(emit(nn.conv2d(x, stem, padding=1))))
    z = emit(op.add(emit(nn.conv2d(y, a, padding=1, groups=2)), y))
    z = _shuffled(emit, emit(nn.relu(z)))
    left = _behind(emit, z, b, bias, strides=2, padding=1)
    right = _behind(emit, z, c, bias, strides=2)
    return op.add(left, right)


def _also_read_whole(emit, x, stem, a, b, bias, c):
    """What is exchanged is an operand of a sum too."""
    y = _shuffled(emit, emit(nn.relu(emit(nn.conv2d(x, stem, padding=1)))))
    z = _behind(emit, y, b, bias, padding=1)
    return op.add(emit(op.add(z, y)), emit(nn.conv2d(z, c, groups=2)))


def _between_exchanges(emit, x, stem, a, b, bias, c):
    """One layer stands between two exchanges."""
    y = _shuffled(emit, emit(nn.relu(emit(nn.conv2d(x, stem, padding=1)))))
    z = _shuffled(emit, _behind(emit, y, b, bias, padding=1))
    return nn.conv2d(z, c, groups=2)


BODIES = {"readers": _two_readers, "whole": _also_read_whole, "between": _between_exchanges}


def _network(body, height=10):
    weights = {
        "stem": drawn(4, 3, 3, 3),
        "a": drawn(4, 2, 3, 3, seed=1),
        "b": drawn(4, 2, 3, 3, seed=2),
        "bias": drawn(1, 4, 1, 1),
        "c": drawn(4, 2, 1, 1),
    }
    return network(BODIES[body], (1, 3, height, 6), weights=weights)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("bands", [2, 3])
def test_bands_compute_the_same(body, bands):
    net, x = _network(body), drawn(1, 3, 10, 6)
    expected = run(net, x)[0]
    spread = SplitRows(bands=bands)(PropagatePlacement(groups=2)(net))
    for count, assignment in ((1, [(0,), (1,)]), (2, [(0, 1)])):
        split = SplitStages(groups_per_device=count)(spread)
        plan = plan_of(split)
        ours = Devices(plan, {count: split}, assignment).run(x=x)
        assert_close(next(iter(ours.values())), expected)
    exchanges = [m for m in plan.movements if m.kind == "all_to_all"]
    assert len(exchanges) == bands * (2 if body == "between" else 1)
    for movement in exchanges:
        # Nothing but bands is sent, and a band is less than the whole.
        assert plan.value(movement.source).shape[2] < 10


def test_a_band_behind_an_exchange_waits_for_its_rows_alone():
    spread = SplitRows(bands=2)(PropagatePlacement(groups=2)(_network("readers")))
    plan = plan_of(SplitStages()(spread))
    first, second = (m.target for m in plan.movements if m.kind == "all_to_all")
    reads = [{first, second} & {*stage.inputs} for stage in plan.stages]
    # The body before the exchange, two bands of its last layer; two bands behind it, the rest.
    assert reads == [set(), set(), set(), {first}, {first, second}, set()]
    sends = [{m.source for m in plan.movements} & {*stage.outputs} for stage in plan.stages]
    assert [len(names) for names in sends] == [0, 1, 1, 0, 0, 1]


def test_calibrated_limits_are_those_of_the_whole():
    net, x = _network("readers"), drawn(1, 3, 10, 6)
    spread = PropagatePlacement(groups=2)(net)
    limits = {"take": np.array([30.0, 20.0, 40.0, 10.0], "float32")}
    outputs = []
    for changed in (spread, SplitRows(bands=3)(spread)):
        split = SplitStages(wire="int8", limits=limits)(changed)
        plan = plan_of(split)
        assert not any(m.source.endswith(".scale") for m in plan.movements)
        outputs += Devices(plan, {1: split}, [(0,), (1,)]).run(x=x).values()
    # Sums in another order may fall to the other side between two integers.
    assert np.abs(outputs[0] - outputs[1]).max() <= 2 * 40 / 255
    assert np.abs(outputs[0] - run(net, x)[0]).max() > 1e-4


@pytest.mark.parametrize("height", [2, 3])
def test_few_rows_make_few_bands(height):
    net, x = _network("between", height), drawn(1, 3, height, 6)
    split = SplitStages()(SplitRows(bands=4)(PropagatePlacement(groups=2)(net)))
    plan = plan_of(split)
    assert len(plan.stages) == (3 if height == 2 else 8)
    ours = Devices(plan, {1: split}, [(0,), (1,)]).run(x=x)
    assert_close(next(iter(ours.values())), run(net, x)[0])


def test_what_it_leaves_alone():
    def pooled(emit, x, stem, b):
        y = emit(nn.max_pool2d(emit(nn.conv2d(x, stem)), (2, 2)))
        return nn.conv2d(_shuffled(emit, y), b, groups=2)

    def read_twice(emit, x, stem, b):
        y = emit(nn.conv2d(x, stem))
        return op.add(emit(nn.conv2d(_shuffled(emit, y), b, groups=2, padding=1)), y)

    for body in (pooled, read_twice):
        weights = {"stem": drawn(4, 3, 1, 1), "b": drawn(4, 2, 3, 3)}
        net = network(body, (1, 3, 8, 8), weights=weights)
        spread = PropagatePlacement(groups=2)(net)
        same = SplitRows(bands=2)(spread)
        data = json.loads(str(same["main"].attrs["decnn.placement"]))
        if body is pooled:
            assert not data["parts"]
            bare = [m["main"].without_attr("decnn.placement") for m in (same, spread)]
            tvm.ir.assert_structural_equal(*bare, map_free_vars=True)
        split = SplitStages()(same)
        x = drawn(1, 3, 8, 8)
        ours = Devices(plan_of(split), {1: split}, [(0,), (1,)]).run(x=x)
        assert_close(next(iter(ours.values())), run(net, x)[0])


def test_bad_numbers():
    with pytest.raises(PartitionError, match="bands=0"):
        SplitRows(bands=0)
    with pytest.raises(PartitionError, match="no placement"):
        SplitRows(bands=2)(_network("readers"))
