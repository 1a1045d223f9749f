# SPDX-License-Identifier: Apache-2.0
"""Shares of kernels, against what a hand reckons."""

from __future__ import annotations

import pytest

from decnn_tvm.planning.layer_costs import LayerCost
from decnn_tvm.report.charts import Bar
from decnn_tvm.report.kernel_shares import busiest_worker, estimated_bars, measured_bars
from tests.profiles import made_up_profile


def cost(name: str, kind: str, cycles: float) -> LayerCost:
    return LayerCost(
        name=name,
        operator="nn.conv2d",
        kind=kind,
        macs=1,
        cycles=cycles,
        weight_bytes=0,
        workspace_bytes=0,
    )


def shares(bars: list[Bar]) -> dict[str, float]:
    return {bar.name: part for bar in bars for _, _, part in bar.parts}


def test_measured_kernels_are_parts_of_their_stages() -> None:
    profile = made_up_profile(["board-0", "board-1"])
    worker = busiest_worker(profile.workers)
    assert worker.name == "board-1"
    bars = measured_bars(worker)
    # Stages of 0.6 s and 0.2 s, of which the first spends a quarter in a pooling.
    assert shares(bars) == pytest.approx(
        {
            "all of stage0": 75.0,
            "all of stage1": 25.0,
            "stage0: fused_conv2d_relu": 56.25,
            "stage1: fused_conv2d_relu": 25.0,
            "stage0: max_pool2d": 18.75,
        }
    )
    assert [bar.name for bar in bars] == list(shares(bars))


def test_estimated_kinds_come_before_the_longest_layers() -> None:
    costs = [cost("a", "dense", 10), cost("b", "winograd", 30), cost("a", "dense", 20)]
    costs += [cost(f"small{i}", "other", 1) for i in range(40)]
    bars = estimated_bars(costs)
    assert [bar.name for bar in bars[:5]] == ["all other", "all dense", "all winograd", "a", "b"]
    assert [part for bar in bars[:4] for _, _, part in bar.parts] == [40.0, 30.0, 30.0, 30.0]
    assert len(bars) == 3 + 12
    assert estimated_bars([]) == []
