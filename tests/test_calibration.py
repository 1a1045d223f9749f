# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from decnn_tvm.calibration import calibrate, unit_limits
from decnn_tvm.compiler import compile_network
from decnn_tvm.errors import CompileError, InputError
from decnn_tvm.network import Network
from decnn_tvm.passes import PropagatePlacement
from tests.modules import drawn, network

op = relax.op


def _network():
    def body(emit, x, stem, conv, fc):
        y = emit(op.nn.relu(emit(op.nn.conv2d(x, stem))))
        y = emit(op.take(y, relax.const(np.array([0, 2, 1, 3], "int64")), axis=1))
        y = emit(op.nn.conv2d(y, conv, groups=2))
        return op.matmul(emit(op.mean(y, [2, 3])), fc)

    weights = {"stem": drawn(4, 3, 1, 1), "conv": drawn(4, 2, 3, 3), "fc": drawn(4, 5)}
    return network(body, (1, 3, 5, 5), weights=weights, attrs={"decnn.groups": 2})


def _overflowing():
    """Return an input on which the first channel of the stem is infinite."""
    signs = np.sign(drawn(4, 3, 1, 1)[0])[np.newaxis]
    return (3e38 * signs * np.ones((1, 3, 5, 5))).astype("float32")


@pytest.fixture(scope="module")
def spread():
    return PropagatePlacement()(_network())


def test_limits_are_those_of_the_whole_network(spread):
    samples = [drawn(1, 3, 5, 5, seed=seed) for seed in range(5)]
    seen = [
        np.maximum(np.einsum("bchw,oc->bohw", x, drawn(4, 3, 1, 1)[:, :, 0, 0]), 0) for x in samples
    ]
    expected = np.max([y[:, [0, 2, 1, 3]].max((0, 2, 3)) for y in seen], 0)
    for method, factor in (("max", 1.0), ("headroom", 1.5)):
        limits = calibrate(spread, iter(samples), method)
        assert [*limits] == ["take"]
        np.testing.assert_allclose(limits["take"], factor * expected, rtol=1e-5)
    named = calibrate(spread, [{"x": x} for x in samples], "max")
    np.testing.assert_array_equal(named["take"], calibrate(spread, samples, "max")["take"])
    np.testing.assert_array_equal(unit_limits(spread)["take"], np.ones(4))


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], InputError, "no samples"),
        ([drawn(1, 3, 5, 4)], InputError, r"sample 1: input 'x' is float32\(1, 3, 5, 4\)"),
        ([drawn(1, 3, 5, 5), drawn(1, 3, 5, 5).astype("float64")], InputError, "sample 2.*float64"),
        ([{"y": drawn(1, 3, 5, 5)}], InputError, r"\['y'\]; expected \['x'\]"),
        ([[1, 2]], InputError, "is list"),
        ([np.full((1, 3, 5, 5), np.nan, "float32")], InputError, "'x' holds NaN"),
        ([_overflowing()], InputError, "computes NaN or infinity"),
    ],
)
def test_samples_that_do_not_suit(spread, samples, error, message):
    with pytest.raises(error, match=message):
        calibrate(spread, samples)


def test_what_compile_refuses(tmp_path):
    net, x = Network("m", _network()), drawn(1, 3, 5, 5)
    with pytest.raises(CompileError, match="needs no calibration"):
        compile_network(net, tmp_path / "p", calibration=[x])
    with pytest.raises(CompileError, match=r"'best'; expected one of \['headroom'"):
        options = {"wire": "int8", "calibration": [x], "calibration_method": "best"}
        compile_network(net, tmp_path / "p", **options)
    with pytest.raises(CompileError, match="one is missing"):
        compile_network(net, tmp_path / "p", image_mean=(0.5,))
    with pytest.raises(InputError, match="no samples"):
        compile_network(net, tmp_path / "p", wire="int8", calibration=[])
    assert not [*tmp_path.iterdir()]
