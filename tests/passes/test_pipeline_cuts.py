# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import random

import pytest

from decnn_tvm.passes.pipeline_cuts import MACS_PER_BYTE, choose_cuts


def test_the_busiest_stage_is_as_idle_as_can_be() -> None:
    loads = [5, 1, 1, 1, 4, 4]
    assert choose_cuts(loads, dict.fromkeys(range(1, 6), 0), 3) == (0, 2, 5, 6)
    assert choose_cuts(loads, dict.fromkeys(range(1, 6), 0), 1) == (0, 6)


def test_cuts_are_where_little_crosses() -> None:
    loads = [1000 * MACS_PER_BYTE] * 4
    sizes = {1: 10, 2: 900, 3: 10}
    assert choose_cuts(loads, sizes, 2) == (0, 2, 4)  # 2900 against 3000
    assert choose_cuts(loads, sizes | {2: 1100}, 2) == (0, 3, 4)  # 3000 against 3100


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cuts_are_better(seed: int) -> None:
    draw = random.Random(seed)
    loads = [draw.randrange(100) for _ in range(9)]
    places = sorted(draw.sample(range(1, 9), 5))
    sizes = {place: draw.randrange(2) for place in places}

    def busiest(cuts: tuple[int, ...]) -> int:
        pairs = itertools.pairwise(cuts)
        return max(sum(loads[a:b]) + MACS_PER_BYTE * sizes.get(a, 0) for a, b in pairs)

    for stages in (1, 2, 3, 5):
        found = choose_cuts(loads, sizes, stages)
        assert len(found) == stages + 1 and {*found[1:-1]} <= {*places}
        others = itertools.combinations(places, stages - 1)
        assert busiest(found) == min(busiest((0, *cuts, 9)) for cuts in others)
