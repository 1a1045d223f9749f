# SPDX-License-Identifier: Apache-2.0
"""What a stage holds, for every way to share a network, and that its box says so."""

from __future__ import annotations

import pytest

from decnn_tvm.assignment import assign_groups
from decnn_tvm.plan import Plan, Strategy
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.report.network_picture import draw_network
from decnn_tvm.report.stage_words import details, heading, layers_of
from decnn_tvm.targets import resolve_target
from tests.planning.test_planner import small_resnet


def split(strategy: Strategy, shares: tuple[int, ...] = (1, 1)) -> Plan:
    return Splitter([resolve_target("host")]).split(small_resnet(), strategy, shares).plan


def lines(plan: Plan, place: int, groups: tuple[int, ...]) -> list[str]:
    return details(plan, plan.stages[place], groups).splitlines()


@pytest.mark.parametrize(("strategy", "shares"), [("single", (1,)), ("replicas", (1, 1))])
def test_a_whole_network_names_all_its_layers(strategy: Strategy, shares: tuple[int, ...]) -> None:
    plan = split(strategy, shares)
    (stage,) = plan.stages
    layers = layers_of(plan, stage)
    assert layers[0] == "conv1" and layers[-1] == "fc" and "layer2.0.conv1" in layers
    assert len(layers) == len(set(layers)) == 13 and not any("bn" in name for name in layers)
    assert heading(plan, stage) == "0: conv1 … fc"
    first, takes, gives = lines(plan, 0, (0,))
    assert first == f"layers: {', '.join(layers)}"
    for line in (takes, gives):
        assert line.endswith(" (whole, as on every device that works on the sample)")


def test_pipeline_stages_have_layers_of_their_own() -> None:
    plan = split("pipeline")
    first, second = (layers_of(plan, stage) for stage in plan.stages)
    assert first[0] == "conv1" and second[-1] == "fc" and not set(first) & set(second)
    assert "(whole, on this device alone)" in lines(plan, 1, (1,))[1]


def test_a_device_holds_its_channels() -> None:
    plan = split("channels", (2, 1))
    place = next(
        i for i, stage in enumerate(plan.stages) if "layer1.0.conv1" in layers_of(plan, stage)
    )
    assert "(22 of 32 channels)" in lines(plan, place, (0, 1))[2]
    assert "(10 of 32 channels)" in lines(plan, place, (2,))[2]
    assert "one of the sums that it is added up from" in lines(plan, len(plan.stages) - 1, (0,))[2]


def test_a_device_holds_its_rows() -> None:
    plan = split("rows")
    takes = [lines(plan, 0, groups)[1] for groups in ((0,), (1,))]
    assert all(text.startswith("takes: ") and "of 64)" in text for text in takes)
    assert "rows 0 to " in takes[0] and " to 63 of 64" in takes[1]


def test_boxes_say_what_is_in_them() -> None:
    plan = split("channels")
    assignment = assign_groups(plan, 2)
    names, seconds = ["left", "right"], [{stage.function: 1e-3 for stage in plan.stages}] * 2
    text = draw_network(plan, assignment, names, seconds)
    for place, stage in enumerate(plan.stages):
        for rank, name in enumerate(names):
            title = f"{stage.function} on {name}: 1.00 ms\n"
            assert f"<title>{title}{details(plan, stage, assignment[rank])}</title>" in text
        assert lines(plan, place, (0,))[0] != "layers: "
