# SPDX-License-Identifier: Apache-2.0
"""Every candidate of every template computes what PyTorch computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm import relax, s_tir
from tvm.runtime.vm import VirtualMachine

from decnn_tvm.lowering import build_stages, lower_stages
from decnn_tvm.schedules import winograd_choice
from decnn_tvm.schedules.apply import ScheduleKernels, is_layer, open_space
from decnn_tvm.targets import missing_features, resolve_target
from decnn_tvm.testing.stages import random_array, stage_module, to_blocks
from decnn_tvm.tuning.cost_model import tuning_context
from decnn_tvm.tuning.records import as_module

NARROW = {"kind": "llvm", "mcpu": "haswell", "num-cores": 2}
NEEDS_AVX2 = pytest.mark.skipif(
    bool(missing_features(("avx2", "fma"))), reason="needs an x86-64 machine with AVX2"
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with bias and ReLU, as a stage."""

    mod: tvm.IRModule
    inputs: list[Any]
    weights: list[Any]
    expected: Any
    winograd: bool = False


class Fixed:
    """Records that hold one schedule for every layer."""

    def __init__(self, schedule: s_tir.Schedule) -> None:
        self.schedule = schedule
        self.asked: Counter[str] = Counter()
        self.applied: Counter[str] = Counter()

    def best(self, _layer: Any, _target: Any) -> Any:
        return self.schedule.trace


def convolution(
    inputs: int, outputs: int, size: int, *, groups: int = 1, winograd: bool = False
) -> Layer:
    x = random_array(1, inputs, size, size + 2, seed=1)
    w, b = random_array(outputs, inputs // groups, 3, 3, seed=2), random_array(1, outputs, 1, 1)
    tensors = [torch.from_numpy(value).double() for value in (x, w, b.ravel())]
    expected = torch.relu(torch.nn.functional.conv2d(*tensors, padding=1, groups=groups))

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        y = builder.emit(relax.op.nn.conv2d(x, w, padding=1, groups=groups))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, b)))

    attrs = {"decnn.input_blocks": [16], "decnn.output_blocks": [16]}
    mod = stage_module([x], [w, b], body, attrs=attrs)
    reference = to_blocks(expected.numpy(), 16)
    return Layer(
        mod=mod, inputs=[to_blocks(x, 16)], weights=[w, b], expected=reference, winograd=winograd
    )


def dense() -> Layer:
    x, w, b = random_array(6, 24, seed=1), random_array(24, 40, seed=2), random_array(40, seed=3)

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        y = builder.emit(relax.op.matmul(x, w))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, b)))

    expected = np.maximum(x.astype("float64") @ w + b, 0)
    return Layer(mod=stage_module([x], [w, b], body), inputs=[x], weights=[w, b], expected=expected)


LAYERS = {
    "direct": lambda: convolution(32, 32, 4),
    "groups": lambda: convolution(64, 64, 4, groups=2),
    "depthwise": lambda: convolution(16, 16, 9, groups=16),
    "winograd": lambda: convolution(32, 32, 14, winograd=True),
    "dense": dense,
}
TARGETS = ["host", pytest.param(NARROW, marks=NEEDS_AVX2, id="narrow")]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LAYERS)
def test_candidates_compute_the_layer(
    name: str, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd_choice, "LEAST_GAIN", 0.0)
    layer, resolved = LAYERS[name](), resolve_target(target).target
    candidates = space(layer, resolved)
    assert len({str(schedule.trace) for schedule in candidates}) == len(candidates) > 1
    for schedule in candidates[:: len(candidates) // 4 + 1]:
        check(layer, resolved, schedule)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_candidate_computes_the_layer(
    name: str, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd_choice, "LEAST_GAIN", 0.0)
    layer, resolved = LAYERS[name](), resolve_target(target).target
    for schedule in space(layer, resolved):
        check(layer, resolved, schedule)


def space(layer: Layer, target: tvm.target.Target) -> list[s_tir.Schedule]:
    return open_space(lowered_layer(layer, target), target)


def lowered_layer(layer: Layer, target: tvm.target.Target) -> tvm.tirx.PrimFunc:
    lowered = lower_stages(layer.mod, target, winograd=layer.winograd)
    (func,) = (func for _, func in lowered.functions_items() if is_layer(func))
    return func


def check(layer: Layer, target: tvm.target.Target, schedule: s_tir.Schedule) -> None:
    built = build_stages(layer.mod, target, winograd=layer.winograd, records=[Fixed(schedule)])
    machine = VirtualMachine(built, tvm.cpu())
    weights = [tvm.runtime.tensor(value) for value in layer.weights]
    packed = machine["stage0_transform_params"](weights)
    result = machine["stage0"](*map(tvm.runtime.tensor, layer.inputs), *packed).numpy()
    assert result.shape == layer.expected.shape
    error = np.abs(result - layer.expected).max()
    assert error <= 1e-5 * np.abs(layer.expected).max(), schedule.trace


@pytest.mark.parametrize("name", LAYERS)
def test_the_analytic_schedule_comes_first_and_traces_replay(name: str) -> None:
    layer, target = LAYERS[name](), resolve_target("host").target
    func = lowered_layer(layer, target)
    candidates = open_space(func, target)
    with target:
        analytic = ScheduleKernels()(tvm.IRModule({"layer": func}))["layer"]
    first = candidates[0].mod["main"].with_attr("tirx.is_scheduled", True)
    tvm.ir.assert_structural_equal(first, analytic)
    for schedule in (candidates[0], candidates[-1]):
        replayed = s_tir.Schedule(func)
        schedule.trace.apply_to_schedule(replayed, remove_postproc=False)
        tvm.ir.assert_structural_equal(replayed.mod, schedule.mod)


def test_metaschedule_takes_the_space() -> None:
    target = resolve_target("host").target
    mod = as_module(lowered_layer(dense(), target))
    spaces = tuning_context(mod, target).generate_design_space()
    ours = open_space(mod["main"], target)
    assert [str(each.trace) for each in spaces] == [str(each.trace) for each in ours]
