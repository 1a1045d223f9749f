# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest

from decnn_tvm.compiler import split_network
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import Strategy
from decnn_tvm.planning.splits import Splitter, with_wire
from decnn_tvm.targets import resolve_target
from tests.planning.test_planner import small_resnet


@pytest.mark.parametrize("strategy", ["channels", "rows", "pipeline"])
def test_float16_is_reckoned_as_it_is_compiled(strategy: Strategy) -> None:
    network = small_resnet()
    split = Splitter([resolve_target("host")]).split(network, strategy, (1, 1))
    real = plan_of(split_network(network, 2, None, False, "float16", strategy=strategy)[1])
    reckoned = with_wire(split.plan, "float16")
    assert Counter((m.kind, m.wire) for m in reckoned.movements) == Counter(
        (m.kind, m.wire) for m in real.movements
    )


@pytest.mark.parametrize("strategy", ["single", "replicas", "pipeline", "rows", "channels"])
def test_every_way_has_the_work_of_the_network(strategy: str) -> None:
    network, target = small_resnet(), resolve_target("host")
    splitter = Splitter([target])
    whole = splitter.split(network, "single", (1,)).kernels(target, (0,))
    macs = sum(cost.macs for costs in whole.values() for cost in costs)
    shares = (1,) if strategy == "single" else (1, 1)
    split = splitter.split(network, strategy, shares)  # type: ignore[arg-type]
    found = [
        sum(cost.macs for costs in split.kernels(target, (group,)).values() for cost in costs)
        for group in range(len(shares))
    ]
    if strategy == "replicas":
        assert found == [macs, macs]
    elif strategy == "rows":
        assert macs <= sum(found) < 1.5 * macs  # rows at the seams are computed twice
    else:
        assert sum(found) == macs


def test_a_split_is_made_once() -> None:
    splitter = Splitter([resolve_target("host")])
    first = splitter.split(small_resnet(), "rows", (1, 1))
    assert splitter.split(small_resnet(), "rows", (1, 1)) is first
