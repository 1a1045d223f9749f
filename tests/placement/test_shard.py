# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from decnn_tvm.placement.shard import (
    REPLICATED,
    WeightShard,
    shard_from_json,
    shard_to_json,
    slice_weight,
    take,
)
from decnn_tvm.plan import PAD

WEIGHT = np.arange(1, 25, dtype="float32").reshape(4, 3, 2)


def test_padding_becomes_zeros():
    assert (
        take(WEIGHT, (2, PAD, 0), 1).tolist()
        == np.stack([WEIGHT[:, 2], np.zeros((4, 2)), WEIGHT[:, 0]], axis=1).tolist()
    )
    assert take(np.array([np.inf, 1], "float32"), (PAD, 1), 0).tolist() == [0, 1]


def test_axes_are_sliced_and_contiguous():
    shard = WeightShard(axes={0: ((0, 2), (1, PAD)), 1: ((1,), (2,))}, combine="concat")
    np.testing.assert_array_equal(slice_weight(WEIGHT, shard, 0), WEIGHT[[0, 2]][:, [1]])
    second = slice_weight(WEIGHT, shard, 1)
    np.testing.assert_array_equal(second, [[WEIGHT[1, 2]], [[0, 0]]])
    assert second.flags.c_contiguous and second.dtype == WEIGHT.dtype


def test_inputs_of_each_convolution_group_are_reordered():
    shard = WeightShard(
        axes={0: ((0, 1, 2, 3),)}, inputs=(((2, 0, 1), (0, 1, PAD)),), combine="concat"
    )
    ours = slice_weight(WEIGHT, shard, 0)
    np.testing.assert_array_equal(ours[:2], WEIGHT[:2][:, [2, 0, 1]])
    np.testing.assert_array_equal(ours[2:, :2], WEIGHT[2:, :2])
    assert not ours[2:, 2].any()


def test_one_group_holds_an_addend():
    shard = WeightShard(combine="sum")
    slices = [slice_weight(WEIGHT, shard, group) for group in range(3)]
    np.testing.assert_array_equal(sum(slices), WEIGHT)
    assert not slices[1].any() and not slices[2].any()


@pytest.mark.parametrize(
    "shard",
    [
        REPLICATED,
        WeightShard(axes={0: ((0, 2, 4, PAD), (1, 3, 5, 7))}, combine="concat"),
        WeightShard(
            axes={1: ((3,), (1,))}, inputs=(((0, 1),), ((1, 0),)), combine="concat", axis=1
        ),
    ],
)
def test_json_round_trip(shard):
    assert shard_from_json(json.loads(json.dumps(shard_to_json(shard)))) == shard
