# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax, te, tirx

from decnn_tvm.lowering import build_stages
from decnn_tvm.schedules import winograd_choice
from decnn_tvm.schedules.register_tiles import TileProblem
from decnn_tvm.schedules.winograd_choice import choose_winograd
from decnn_tvm.schedules.winograd_transforms import A_T, B_T, G, combine
from decnn_tvm.targets import missing_features, resolve_target
from decnn_tvm.testing.stages import random_array, run_stage, stage_module, to_blocks
from decnn_tvm.tuning.records import as_module, structural_key

BLOCK = 16
NEEDS_AVX2 = pytest.mark.skipif(
    bool(missing_features(("avx2", "fma"))), reason="needs an x86-64 machine with AVX2"
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Winograd's method be chosen wherever it can be."""
    monkeypatch.setattr(winograd_choice, "LEAST_GAIN", 0.0)


def stage(inputs, outputs, size, padding=(1, 1, 1, 1), groups=1, batch=1):
    """A 3 x 3 convolution with bias, residual and ReLU; its operands and its exact result."""
    data = random_array(batch, inputs, *size, seed=1)
    kernel = random_array(outputs, inputs // groups, 3, 3, seed=2)
    bias = random_array(1, outputs, 1, 1, seed=3)
    top, left, bottom, right = padding
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(torch.from_numpy(data), (left, right, top, bottom)).double(),
        torch.from_numpy(kernel).double(),
        torch.from_numpy(bias.ravel()).double(),
        groups=groups,
    )
    residual = random_array(*expected.shape, seed=4)
    expected = torch.relu(expected + torch.from_numpy(residual)).numpy()

    def body(builder, x, r, w, b):
        y = builder.emit(relax.op.nn.conv2d(x, w, padding=padding, groups=groups))
        y = builder.emit(relax.op.add(y, b))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, r)))

    attrs = {"decnn.input_blocks": [BLOCK] * 2, "decnn.output_blocks": [BLOCK]}
    mod = stage_module([data, residual], [kernel, bias], body, attrs=attrs)
    blocked = [to_blocks(value, BLOCK) for value in (data, residual)]
    return mod, blocked, [kernel, bias], to_blocks(expected, BLOCK)


def check(*, target="host", **options):
    mod, inputs, weights, expected = stage(**options)
    built = build_stages(mod, resolve_target(target).target, winograd=True)
    assert "conv2d_winograd" in built.as_text()
    result = run_stage(mod, inputs, weights, target=target, winograd=True)
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_transforms_compute_a_convolution() -> None:
    d, g = random_array(6, 6).astype("float64"), random_array(3, 3, seed=1).astype("float64")
    ours = A_T @ ((G @ g @ G.T) * (B_T @ d @ B_T.T)) @ A_T.T
    direct = [[(d[y : y + 3, x : x + 3] * g).sum() for x in range(4)] for y in range(4)]
    np.testing.assert_allclose(ours, direct, atol=1e-13)


@pytest.mark.parametrize("matrix", [A_T, B_T], ids=["A_T", "B_T"])
def test_constants_do_not_depend_on_the_last_bits_of_a_processor(matrix: np.ndarray) -> None:
    def kernel(matrix: np.ndarray) -> tirx.PrimFunc:
        data = te.placeholder((matrix.shape[1],), name="data")
        shape = (matrix.shape[0],)
        result = te.compute(shape, lambda row: combine(matrix, row, lambda k: data[k]), name="sum")
        return te.create_prim_func([data, result])

    assert structural_key(as_module(kernel(matrix - 1e-15))) == structural_key(
        as_module(kernel(matrix + 1e-15))
    )


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_size(always: None, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    check(
        inputs=groups * BLOCK * data.draw(st.integers(1, 3)),
        outputs=groups * BLOCK * data.draw(st.integers(1, 4)),
        size=(data.draw(st.integers(3, 31)), data.draw(st.integers(3, 61))),
        padding=tuple(data.draw(st.integers(0, 2)) for _ in range(4)),
        groups=groups,
        batch=data.draw(st.integers(1, 2)),
    )


@NEEDS_AVX2
@pytest.mark.parametrize(("cpu", "cores"), [("x86-64-v2", 1), ("haswell", 1), ("haswell", 2)])
def test_narrower_vectors_and_several_cores(always: None, cpu: str, cores: int) -> None:
    target = {"kind": "llvm", "mcpu": cpu, "num-cores": cores}
    check(inputs=32, outputs=48, size=(13, 17), target=target)


def test_a_board_gets_code_of_its_own(always: None) -> None:
    mod, *_ = stage(32, 32, (14, 14))
    built = build_stages(mod, resolve_target("raspberry-pi/4b-aarch64").target, winograd=True)
    sources = [part.inspect_source("asm") for part in built.mod.imports]
    assert any("fmla" in source and "winograd" in source for source in sources)


def test_what_has_no_winograd_runs_directly(always: None) -> None:
    """Another stride, and channels that are no whole vectors."""
    x, w = random_array(1, 32, 9, 9), random_array(32, 32, 3, 3)
    strided = stage_module([x], [w], lambda _, x, w: relax.op.nn.conv2d(x, w, strides=2))
    x, w = random_array(1, 28, 9, 9), random_array(28, 28, 3, 3)
    narrow = stage_module([x], [w], lambda _, x, w: relax.op.nn.conv2d(x, w))
    for mod in (strided, narrow):
        built = build_stages(mod, resolve_target("host").target, winograd=True)
        assert "winograd" not in built.as_text()


def plan(channels: int, size: int):
    problem = TileProblem(
        height=size,
        width=size,
        blocks=channels // 16,
        vectors=1,
        steps=9 * channels,
        registers=32,
        vector_bytes=64,
    )
    return choose_winograd(problem, channels, channels, 16)


def test_wide_layers_choose_winograd_and_small_images_do_not() -> None:
    assert plan(64, 56) and plan(128, 28) and plan(256, 14) and plan(512, 28)
    # 4 tiles for 37 MB of weights; a tile of 16 pixels for 4; seven blocks, taken one at a time,
    # where the direct method takes two.
    assert plan(512, 7) is None and plan(512, 2) is None and plan(112, 14) is None


def test_a_band_fits_the_cache() -> None:
    chosen = plan(64, 56)
    assert chosen is not None and 14 % chosen.band == 0
    assert 36 * chosen.band * 14 * 64 * 4 <= 1 << 20
