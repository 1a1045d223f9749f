# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from tvm import relax

from decnn_tvm.passes.placement_inference import bindings_of
from decnn_tvm.passes.value_ranges import is_non_negative
from tests.modules import drawn, network

op, nn = relax.op, relax.op.nn


@pytest.mark.parametrize(
    ("expected", "body"),
    [
        (True, lambda emit, x, w: nn.relu(x)),
        (True, lambda emit, x, w: op.clip(x, 0, 6)),
        (False, lambda emit, x, w: op.clip(x, -1, 6)),
        (True, lambda emit, x, w: nn.max_pool2d(emit(nn.relu(x)), (2, 2))),
        (False, lambda emit, x, w: nn.max_pool2d(x, (2, 2))),
        (True, lambda emit, x, w: op.add(emit(nn.relu(x)), emit(op.sigmoid(x)))),
        (False, lambda emit, x, w: op.add(emit(nn.relu(x)), x)),
        (False, lambda emit, x, w: op.add(emit(nn.relu(x)), w)),
        (False, lambda emit, x, w: op.subtract(emit(nn.relu(x)), emit(op.sigmoid(x)))),
        (True, lambda emit, x, w: op.concat([emit(nn.relu(x)), emit(op.abs(x))], axis=1)),
        (False, lambda emit, x, w: op.concat([emit(nn.relu(x)), x], axis=1)),
        (True, lambda emit, x, w: op.mean(emit(op.take(emit(nn.relu(x)), w_index(), 1)), [2, 3])),
        (False, lambda emit, x, w: nn.conv2d(emit(nn.relu(x)), w)),
        (False, lambda emit, x, w: nn.leakyrelu(x)),
    ],
)
def test_what_cannot_be_negative(expected, body):
    func = network(body, (1, 2, 4, 4), weights={"w": drawn(2, 2, 1, 1)})["main"]
    bound = dict(bindings_of(func))
    result = func.body.body
    while isinstance(bound.get(result), relax.Var):
        result = bound[result]
    assert is_non_negative(result, bound) == expected


def w_index():
    return relax.const([1, 0], "int64")
