# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax, s_tir

from decnn_tvm.errors import CompileError
from decnn_tvm.lowering import build_stages
from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.schedules.direct_convolution import DirectConvolution
from decnn_tvm.targets import missing_features, resolve_target
from decnn_tvm.testing.stages import random_array, run_stage, stage_module, to_blocks


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution with bias, residual and ReLU."""

    inputs: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1
    blocked: bool = True


CASES = [
    # The stem, and widths that no tile divides.
    Case(inputs=3, outputs=64, height=23, width=29, kernel=(7, 7), stride=(2, 2), padding=(3,) * 4),
    Case(
        inputs=3, outputs=96, height=27, width=27, kernel=(11, 11), stride=(4, 4), padding=(2,) * 4
    ),
    Case(inputs=32, outputs=48, height=13, width=17),
    Case(inputs=32, outputs=32, height=1, width=1),
    Case(inputs=64, outputs=64, height=7, width=7),
    Case(inputs=16, outputs=32, height=31, width=9, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=16, outputs=32, height=15, width=9, kernel=(1, 1), padding=(0,) * 4, stride=(2, 2)),
    Case(inputs=16, outputs=16, height=12, width=10, dilation=(2, 3), padding=(2, 3, 2, 3)),
    Case(inputs=16, outputs=16, height=12, width=10, padding=(0, 1, 2, 0), stride=(2, 1)),
    Case(inputs=16, outputs=16, height=9, width=10, kernel=(1, 5), padding=(0, 2, 0, 2), batch=3),
    # Shards of ResNet-50 x1.75 over four groups, one group and several of them on a device.
    Case(inputs=28, outputs=28, height=14, width=14),
    Case(inputs=112, outputs=28, height=7, width=7, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=56, outputs=56, height=14, width=14, groups=2),
    Case(inputs=84, outputs=168, height=7, width=7, groups=3, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=112, outputs=112, height=7, width=7, groups=4, stride=(2, 2)),
    Case(inputs=24, outputs=40, height=7, width=7, kernel=(1, 1), padding=(0,) * 4),
    # Seven channel blocks, which no tile takes at once.
    Case(inputs=16, outputs=112, height=7, width=14, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=32, outputs=224, height=6, width=14, groups=2),
    # Channels per group that fit no vector.
    Case(inputs=26, outputs=39, height=7, width=8, groups=1),
    Case(inputs=13, outputs=7, height=6, width=5),
    Case(inputs=5, outputs=3, height=6, width=5),
    Case(inputs=1, outputs=1, height=6, width=5),
    Case(inputs=17, outputs=34, height=6, width=5),
    Case(inputs=34, outputs=38, height=6, width=5, groups=2),
    Case(inputs=6, outputs=12, height=6, width=5, groups=6),
    Case(inputs=32, outputs=20, height=6, width=5, groups=4),
    # Depthwise.
    Case(inputs=32, outputs=32, height=15, width=13, groups=32),
    Case(inputs=24, outputs=24, height=14, width=14, groups=24, stride=(2, 2)),
    Case(inputs=28, outputs=28, height=9, width=7, groups=28, kernel=(5, 5), padding=(2,) * 4),
    Case(inputs=16, outputs=16, height=9, width=7, groups=16, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=7, outputs=7, height=9, width=7, groups=7),
    Case(inputs=3, outputs=3, height=9, width=7, groups=3),
    Case(inputs=32, outputs=32, height=9, width=8, groups=32, blocked=False, dilation=(2, 2)),
    Case(inputs=32, outputs=48, height=9, width=8, blocked=False),
]


def check(case: Case, target: str | dict[str, Any] = "host", *, winograd: bool = False) -> None:
    data = random_array(case.batch, case.inputs, case.height, case.width, seed=1)
    kernel = random_array(case.outputs, case.inputs // case.groups, *case.kernel, seed=2)
    bias = random_array(1, case.outputs, 1, 1, seed=3)
    top, left, bottom, right = case.padding
    padded = torch.nn.functional.pad(torch.from_numpy(data), (left, right, top, bottom))
    # In double precision, so that only our own rounding counts.
    expected = torch.nn.functional.conv2d(
        padded.double(),
        torch.from_numpy(kernel).double(),
        torch.from_numpy(bias.ravel()).double(),
        stride=case.stride,
        dilation=case.dilation,
        groups=case.groups,
    )
    residual = random_array(*expected.shape, seed=4)
    expected = torch.relu(expected + torch.from_numpy(residual))

    def body(builder: Any, x: Any, r: Any, w: Any, b: Any) -> Any:
        y = relax.op.nn.conv2d(
            x,
            w,
            strides=case.stride,
            padding=case.padding,
            dilation=case.dilation,
            groups=case.groups,
        )
        y = builder.emit(relax.op.add(builder.emit(y), b))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, r)))

    groups = 1 if case.groups == case.inputs == case.outputs else case.groups
    in_block = preferred_block(case.inputs // groups) if case.blocked else 1
    out_block = preferred_block(case.outputs // groups) if case.blocked else 1
    attrs = {
        "decnn.input_blocks": [in_block, out_block],
        "decnn.output_blocks": [out_block],
    }
    inputs = [to_blocks(data, in_block), to_blocks(residual, out_block)]
    mod = stage_module([data, residual], [kernel, bias], body, attrs=attrs)
    result = run_stage(mod, inputs, [kernel, bias], target=target, winograd=winograd)
    reference = to_blocks(expected.numpy(), out_block)
    assert result.shape == reference.shape
    assert np.abs(result - reference).max() <= 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_with_epilogue(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("groups", "winograd"),
    [(1, False), (1, True), (32, False)],
    ids=["direct", "winograd", "depthwise"],
)
def test_a_residual_that_is_read_from_a_wire(groups: int, winograd: bool) -> None:
    """Its cast and its scale come before the convolution, which does not read them."""
    data, kernel = random_array(1, 32, 16, 16, seed=1), random_array(32, 32 // groups, 3, 3, seed=2)
    scale, bias = (random_array(1, 32, 1, 1, seed=seed) for seed in (3, 4))
    whole = (100 * random_array(1, 32, 16, 16, seed=5)).clip(-127, 127).astype("int8")

    def body(builder: Any, x: Any, r: Any, w: Any, s: Any, b: Any) -> Any:
        r = builder.emit(relax.op.astype(r, "float32"))
        r = builder.emit(relax.op.multiply(r, s))
        y = builder.emit(relax.op.nn.conv2d(x, w, padding=(1, 1), groups=groups))
        y = builder.emit(relax.op.add(y, b))
        return relax.op.nn.relu(builder.emit(relax.op.add(r, y)))

    block = preferred_block(32)
    attrs = {"decnn.input_blocks": [block, block], "decnn.output_blocks": [block]}
    mod = stage_module([data, whole], [kernel, scale, bias], body, attrs=attrs)
    blocked = [to_blocks(value, block) for value in (data, whole)]
    result = run_stage(mod, blocked, [kernel, scale, bias], winograd=winograd)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(data).double(),
        torch.from_numpy(kernel).double(),
        torch.from_numpy(bias.ravel()).double(),
        padding=1,
        groups=groups,
    )
    expected = torch.relu(expected + torch.from_numpy(whole.astype(float) * scale))
    reference = to_blocks(expected.numpy(), block)
    assert np.abs(result - reference).max() <= 1e-5 * np.abs(reference).max()


def test_a_template_that_does_not_fit_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, sch: s_tir.Schedule, *_: Any) -> None:
        sch.compute_inline(sch.get_sblock("convolution"))

    monkeypatch.setattr(DirectConvolution, "schedule", fail)
    x, w = random_array(1, 14, 9, 9), random_array(28, 14, 3, 3)
    mod = stage_module([x], [w], lambda _, x, w: relax.op.nn.conv2d(x, w))
    with pytest.raises(CompileError, match=r"'convolution' does not fit.*\(1, 1, 9, 9, 14\)"):
        build_stages(mod, resolve_target("host").target)


# Processors whose code every x86-64 machine with AVX2 runs.
NARROW = [{"kind": "llvm", "mcpu": "x86-64-v2"}, {"kind": "llvm", "mcpu": "haswell"}]


@pytest.mark.skipif(
    bool(missing_features(("avx2", "fma"))), reason="needs an x86-64 machine with AVX2"
)
@pytest.mark.parametrize("target", NARROW, ids=lambda target: str(target["mcpu"]))
@pytest.mark.parametrize("case", [CASES[i] for i in (0, 2, 10, 15, 16, 22, 27, 28)], ids=str)
def test_narrower_vectors(case: Case, target: dict[str, str]) -> None:
    check(case, target)


@pytest.mark.skipif(
    bool(missing_features(("avx2", "fma"))), reason="needs an x86-64 machine with AVX2"
)
@pytest.mark.parametrize("case", [CASES[i] for i in (0, 2, 9, 12, 17, 26, 28)], ids=str)
def test_several_cores(case: Case) -> None:
    check(case, {"kind": "llvm", "mcpu": "haswell", "num-cores": 2})


# Reductions so wide that targets with few registers take them in chunks, over bands of rows; the
# last has the plain layout, in which seven vectors of 8 channels are an uneven pass.
WIDE = [
    Case(inputs=512, outputs=64, height=30, width=12, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=192, outputs=32, height=7, width=7, batch=2),
    Case(inputs=1280, outputs=112, height=7, width=7, kernel=(1, 1), padding=(0,) * 4),
    Case(inputs=768, outputs=128, height=9, width=10, groups=2, stride=(2, 2)),
    Case(inputs=256, outputs=56, height=4, width=4, blocked=False),
]


@pytest.mark.skipif(
    bool(missing_features(("avx2", "fma"))), reason="needs an x86-64 machine with AVX2"
)
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("target", NARROW, ids=lambda target: str(target["mcpu"]))
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_reductions_in_chunks(case: Case, target: dict[str, Any], cores: int) -> None:
    check(case, {**target, "num-cores": cores})


def test_a_board_gets_code_of_its_own() -> None:
    board = resolve_target("raspberry-pi/4b-aarch64").target
    x, w = random_array(1, 14, 9, 9), random_array(28, 14, 3, 3)
    mod = stage_module([x], [w], lambda _, x, w: relax.op.nn.conv2d(x, w))
    sources = [part.inspect_source("asm") for part in build_stages(mod, board).mod.imports]
    assert any("fmla" in source and "v31.4s" in source for source in sources)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    return Case(
        inputs=groups * draw(st.integers(1, 33)),
        outputs=groups * draw(st.integers(1, 33)),
        height=draw(st.integers(reach[0], 15)),
        width=draw(st.integers(reach[1], 33)),
        kernel=kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=(padding[0], padding[1], padding[2], padding[3]),
        dilation=dilation,
        groups=groups,
        batch=draw(st.integers(1, 2)),
        blocked=draw(st.booleans()),
    )


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(cases())
def test_any_convolution(case: Case) -> None:
    check(case)
