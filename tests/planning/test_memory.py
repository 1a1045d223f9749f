# SPDX-License-Identifier: Apache-2.0
"""Memory, against packages that workers load."""

from __future__ import annotations

import pytest

from decnn_tvm.planning.layer_costs import LayerCost
from decnn_tvm.planning.memory import SESSION_BYTES, Memory, loading_bytes
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.targets import resolve_target
from tests.planning.test_planner import small_resnet


def packed(size: int) -> tuple[LayerCost, ...]:
    cost = LayerCost(
        name="w",
        operator="nn.conv2d",
        kind="conv2d",
        macs=1,
        cycles=1.0,
        weight_bytes=size,
        workspace_bytes=0,
    )
    return (cost,)


def test_the_most_is_while_running_or_while_loading() -> None:
    memory = Memory(weights=100, workspace=20, buffers=30, loading=180)
    assert memory.running == SESSION_BYTES + 150
    assert memory.total == SESSION_BYTES + 180
    small = Memory(weights=100, workspace=20, buffers=30, loading=110)
    assert small.total == small.running


def test_one_stage_is_there_twice() -> None:
    splitter, target = Splitter([resolve_target("host")]), resolve_target("host")
    split = splitter.split(small_resnet(), "single", (1,))
    kernels = split.kernels(target, (0,))
    weights = sum(cost.weight_bytes for costs in kernels.values() for cost in costs)
    given = loading_bytes(split.plan, kernels, 1) - weights
    # What is given has biases, what is packed whole vectors or Winograd's form.
    assert 0.2 * weights < given <= 1.01 * weights


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_heaviest_stage_is_packed_first(order: tuple[int, int]) -> None:
    split = Splitter([resolve_target("host")]).split(small_resnet(), "pipeline", (1, 1))
    first, second = split.plan.stages
    given = [loading_bytes(split.plan, {stage.function: packed(0)}, 1) for stage in (first, second)]
    kernels = {first.function: packed(1000), second.function: packed(1000)}
    kernels = {name: kernels[name] for name in (list(kernels)[i] for i in order)}
    assert loading_bytes(split.plan, kernels, 1) == max(1000 + max(given), 2000 + min(given))
