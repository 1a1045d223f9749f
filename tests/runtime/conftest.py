# SPDX-License-Identifier: Apache-2.0
"""A small split network, written by hand: a stem, an exchange, a residual, a partial sum."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import tvm
from tvm import relax

from decnn_tvm.manifest import TargetLibraries
from decnn_tvm.package import Package, write_manifest, write_weights
from decnn_tvm.plan import (
    Host,
    Movement,
    Partial,
    Plan,
    Replicated,
    Sharded,
    Stage,
    Value,
    Weight,
)

GROUPS, CHANNELS, SIZE, CLASSES = 4, 16, 6, 5
PER_GROUP = CHANNELS // GROUPS
IMAGE = (1, 3, SIZE, SIZE)
ACTIVATION = (1, CHANNELS, SIZE, SIZE)


def shuffled() -> tuple[tuple[int, ...], ...]:
    """New group b takes the channels i with i mod G = b."""
    return tuple(tuple(range(b, CHANNELS, GROUPS)) for b in range(GROUPS))


def make_plan() -> Plan:
    own = tuple(tuple(range(g * PER_GROUP, (g + 1) * PER_GROUP)) for g in range(GROUPS))
    kernel = (PER_GROUP, PER_GROUP, 3, 3)

    def value(name: str, shape: tuple[int, ...], placement: object) -> Value:
        return Value(name=name, shape=shape, dtype="float32", placement=placement)  # type: ignore[arg-type]

    def weight(name: str, shape: tuple[int, ...], combine: str, axis: int = 0) -> Weight:
        return Weight(name=name, shape=shape, dtype="float32", combine=combine, axis=axis)  # type: ignore[arg-type]

    return Plan(
        model="hand",
        groups=GROUPS,
        decoupled=True,
        inputs=("x",),
        outputs=("y",),
        values=(
            value("x", IMAGE, Host()),
            value("x_all", IMAGE, Replicated()),
            value("a", ACTIVATION, Sharded(1, own)),
            value("b", ACTIVATION, Sharded(1, shuffled())),
            value("p", (1, CLASSES), Partial()),
            value("y", (1, CLASSES), Host()),
        ),
        weights=(
            weight("stem", (PER_GROUP, 3, 3, 3), "concat"),
            weight("conv", kernel, "concat"),
            weight("fc", (CLASSES, PER_GROUP), "concat", 1),
            weight("bias", (CLASSES,), "sum"),
        ),
        stages=(
            Stage(function="stage0", inputs=("x_all",), weights=("stem",), outputs=("a",)),
            Stage(
                function="stage1",
                inputs=("b", "a"),
                weights=("conv", "fc", "bias"),
                outputs=("p",),
            ),
        ),
        movements=(
            Movement(source="x", target="x_all", kind="input"),
            Movement(source="a", target="b", kind="all_to_all"),
            Movement(source="p", target="y", kind="output"),
        ),
    )


def make_weights() -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(7)

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32)

    return {
        "stem": draw(CHANNELS, 3, 3, 3),
        "conv": draw(CHANNELS, PER_GROUP, 3, 3),
        "fc": draw(CLASSES, CHANNELS),
        "bias": draw(CLASSES),
    }


def slices(weights: dict[str, npt.NDArray[np.float32]]) -> dict[str, list[npt.NDArray[np.float32]]]:
    bias = weights["bias"]
    return {
        "stem": np.split(weights["stem"], GROUPS),
        "conv": np.split(weights["conv"], GROUPS),
        "fc": np.split(weights["fc"], GROUPS, axis=1),
        "bias": [bias, *[np.zeros_like(bias)] * (GROUPS - 1)],
    }


def make_stages(groups: int) -> tvm.IRModule:
    """Return the stage functions of a device with `groups` groups."""
    plan, builder = make_plan(), relax.BlockBuilder()

    def params(stage: Stage) -> dict[str, relax.Var]:
        shapes = {n: plan.value(n).local_shape(groups) for n in stage.inputs}
        shapes |= {n: plan.weight(n).local_shape(groups) for n in stage.weights}
        return {n: relax.Var(n, relax.TensorType(s, "float32")) for n, s in shapes.items()}

    stage0, stage1 = plan.stages
    v = params(stage0)
    with builder.function("stage0", list(v.values()), attrs={"num_input": 1}):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(v["x_all"], v["stem"], padding=1))
            out = builder.emit_output(relax.op.nn.relu(conv))
        builder.emit_func_output(out)
    v = params(stage1)
    with builder.function("stage1", list(v.values()), attrs={"num_input": 2}):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(v["b"], v["conv"], padding=1, groups=groups))
            act = builder.emit(relax.op.nn.relu(relax.op.add(conv, v["a"])))
            feature = builder.emit(relax.op.mean(act, [2, 3]))
            dense = builder.emit(relax.op.matmul(feature, relax.op.permute_dims(v["fc"])))
            out = builder.emit_output(relax.op.add(dense, v["bias"]))
        builder.emit_func_output(out)
    return relax.transform.LiftTransformParams()(builder.get())


@dataclass(frozen=True)
class HandNet:
    """The network in a package, and an independent reference."""

    package: Package
    weights: dict[str, npt.NDArray[np.float32]]

    def samples(self, count: int) -> list[npt.NDArray[np.float32]]:
        random = np.random.default_rng(11)
        return [random.standard_normal(IMAGE).astype(np.float32) for _ in range(count)]

    def reference(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        w = {name: torch.from_numpy(value) for name, value in self.weights.items()}
        with torch.no_grad():
            a = torch.relu(torch.conv2d(torch.from_numpy(x), w["stem"], padding=1))
            b = a[:, [i for group in shuffled() for i in group]]
            c = torch.relu(torch.conv2d(b, w["conv"], padding=1, groups=GROUPS) + a)
            y: npt.NDArray[np.float32] = (c.mean((2, 3)) @ w["fc"].T + w["bias"]).numpy()
        return y

    def check(self, x: npt.NDArray[np.float32], y: object) -> None:
        expected = self.reference(x)
        assert isinstance(y, np.ndarray)
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="session")
def hand_net(tmp_path_factory: pytest.TempPathFactory) -> HandNet:
    path: Path = tmp_path_factory.mktemp("hand")
    plan, weights = make_plan(), make_weights()
    names = write_weights(path, plan, slices(weights))
    target = {"kind": "llvm"}
    libraries = {k: f"lib/generic/groups{k}.so" for k in range(1, GROUPS + 1)}
    (path / "lib/generic").mkdir(parents=True)
    for groups, name in libraries.items():
        code = tvm.compile(make_stages(groups), target=tvm.target.Target(target))
        code.export_library(str(path / name))
    generic = TargetLibraries(
        target=target, machine=platform.machine(), features=(), libraries=libraries
    )
    names += libraries.values()
    package = write_manifest(path, plan, {"generic": generic}, names, workers=4)
    return HandNet(package, weights)
