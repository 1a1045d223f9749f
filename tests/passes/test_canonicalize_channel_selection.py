# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.passes import CanonicalizeChannelSelection
from tests.modules import drawn, network, run

ORDER = np.array([0, 3, 1, 4, 2, 5], "int64")


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((1, 6, 3, 5), "float32")) -> R.Tensor((1, 4, 3, 5), "float32"):
        with R.dataflow():
            a = R.reshape(x, R.shape([1, 2, 3, 3, 5]))
            b = R.permute_dims(a, axes=[0, 2, 1, 3, 4])
            c = R.reshape(b, R.shape([1, 6, 3, 5]))
            parts = R.split(c, indices_or_sections=[2], axis=1)
            out = parts[1]
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((1, 6, 3, 5), "float32")) -> R.Tensor((1, 4, 3, 5), "float32"):
        with R.dataflow():
            c = R.take(x, R.const(ORDER), axis=1)
            out = R.strided_slice(c, axes=[1], begin=[2], end=[6], assume_inbound=True)
            R.output(out)
        return out


def test_shuffle_and_split():
    rewritten = CanonicalizeChannelSelection()(Before)
    tvm.ir.assert_structural_equal(rewritten, Expected)


def _shuffle(emit, x, parts, axes, batch=2):
    shape = [int(extent) for extent in x.ty.shape]
    a = emit(relax.op.reshape(x, (batch, *parts, *shape[2:])))
    b = emit(relax.op.permute_dims(a, axes))
    return relax.op.reshape(b, shape)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_equal_on_odd_sizes(groups):
    def body(emit, x):
        y = emit(_shuffle(emit, x, (groups, 12 // groups), [0, 2, 1, 3, 4]))
        pieces = emit(relax.op.split(y, 3, axis=-1))
        return relax.op.add(emit(pieces[0]), emit(pieces[2]))

    mod = network(body, (2, 12, 3, 9))
    rewritten = CanonicalizeChannelSelection()(mod)
    assert "split" not in str(rewritten).replace("strided_slice", "")
    x = drawn(2, 12, 3, 9)
    np.testing.assert_array_equal(run(rewritten, x)[0], run(mod, x)[0])
    order = np.arange(12).reshape(groups, -1).T.reshape(-1)
    y = x[:, order]
    np.testing.assert_array_equal(run(rewritten, x)[0], y[..., :3] + y[..., 6:])


@pytest.mark.parametrize(
    ("parts", "axes", "batch"),
    [((3, 4), [0, 2, 1, 4, 3], 2), ((3, 4), [2, 1, 0, 3, 4], 2), ((6, 4), [0, 2, 1, 3, 4], 1)],
)
def test_other_transpositions_are_left_alone(parts, axes, batch):
    mod = network(lambda emit, x: _shuffle(emit, x, parts, axes, batch), (2, 12, 3, 3))
    rewritten = CanonicalizeChannelSelection()(mod)
    tvm.ir.assert_structural_equal(rewritten, mod)
    assert "take" not in str(rewritten)
