# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import random

import pytest

from decnn_tvm.runtime.membership import (
    Member,
    bottleneck,
    choose_counts,
    deal,
    reassign,
    replicas,
    share_bytes,
    shortage,
)
from tests.runtime.conftest import make_plan

ANY = (1, 2, 3, 4)


def member(rank: int, groups=(), counts=ANY, seconds: float = 1.0, stored=()) -> Member:
    return Member(
        rank=rank, groups=groups, counts=counts, seconds=seconds, stored=frozenset(stored)
    )


def test_survivors_share_what_is_lost_and_keep_what_they_have() -> None:
    left = [member(0, (0, 1)), member(2, (3,))]
    assert reassign(left, 4) == {0: (0, 1), 2: (2, 3)}
    assert reassign([member(1, (2,))], 4) == {1: (0, 1, 2, 3)}
    three = [member(0, (0,)), member(1, (1,)), member(3, (3,))]
    assert reassign(three, 4) == {0: (0, 2), 1: (1,), 3: (3,)}


def test_a_newcomer_takes_groups_of_the_most_loaded() -> None:
    newcomer = [member(0, (0, 1)), member(1), member(2, (2, 3))]
    assert reassign(newcomer, 4) == {0: (0, 1), 1: (3,), 2: (2,)}
    whole = [member(rank, (rank,)) for rank in range(4)]
    assert reassign([*whole, member(4)], 4) == {0: (0,), 1: (1,), 2: (2,), 3: (3,), 4: ()}


def test_a_group_goes_where_its_weights_are_stored() -> None:
    three = [member(0, (0,)), member(1, (1,)), member(3, (3,), stored=(2, 3))]
    counts = (1, 1, 2)
    assert deal(three, 4, counts) == {0: (0,), 1: (1,), 3: (2, 3)}
    both = [member(0, (0,), stored=(3,)), member(1, (1,), stored=(2,))]
    assert deal(both, 4, (2, 2)) == {0: (0, 3), 1: (1, 2)}


def test_row_strips_of_a_member_are_neighbours() -> None:
    left = [member(0, (0, 1)), member(2, (3,))]
    assert reassign(left, 4, neighbours=True) == {0: (0, 1), 2: (2, 3)}
    left = [member(0, (0,)), member(2, (2,)), member(3, (3,))]
    assert reassign(left, 4, neighbours=True) == {0: (0, 1), 2: (2,), 3: (3,)}
    slow = [member(0, (0,), seconds=3.0), member(1, (1,)), member(2, (2, 3))]
    assert reassign(slow, 4, neighbours=True) == {0: (), 1: (0, 1), 2: (2, 3)}


def test_a_slow_device_gets_fewer_groups() -> None:
    assert choose_counts([member(0), member(1, seconds=3.0)], 4) == (3, 1)
    four = [member(rank, (rank,), seconds=5.0 if rank == 2 else 1.0) for rank in range(4)]
    assert reassign(four, 4) == {0: (0, 2), 1: (1,), 2: (), 3: (3,)}


def test_libraries_and_memory_limit_the_counts() -> None:
    assert choose_counts([member(0, counts=(1,)), member(1, counts=(1, 3))], 4) == (1, 3)
    assert choose_counts([member(0, counts=(1,)), member(1, counts=(1, 2))], 4) is None
    assert reassign([], 4) is None


def cost(counts, members) -> tuple[float, float]:
    loads = [c * m.seconds for c, m in zip(counts, members, strict=True)]
    return bottleneck(counts, members), sum(load * load for load in loads)


def test_counts_are_the_best_of_all() -> None:
    draw = random.Random(5)
    for _ in range(200):
        groups = draw.randint(1, 6)
        members = [
            member(
                rank,
                counts=tuple(k for k in range(1, groups + 1) if draw.random() < 0.7),
                seconds=draw.choice([1.0, 1.5, 3.0]),
            )
            for rank in range(draw.randint(1, 4))
        ]
        all_counts = [
            counts
            for counts in itertools.product(*[(0, *m.counts) for m in members])
            if sum(counts) == groups
        ]
        chosen = choose_counts(members, groups)
        if chosen is None:
            assert not all_counts
            continue

        assert chosen in all_counts
        best = min(cost(counts, members) for counts in all_counts)
        assert cost(chosen, members) == pytest.approx(best)
        dealt = deal(members, groups, chosen)
        assert sorted(g for held in dealt.values() for g in held) == list(range(groups))
        assert [len(dealt[m.rank]) for m in members] == list(chosen)


def test_copies_lie_where_a_takeover_looks_for_them() -> None:
    four = [member(rank, (rank,)) for rank in range(4)]
    copies = replicas(four, 4, 1)
    for lost in range(4):
        after = reassign([m for m in four if m.rank != lost], 4)
        heir = next(rank for rank, held in after.items() if lost in held)
        assert lost in copies[heir]
    assert sum(len(held) for held in replicas(four, 4, 2).values()) == 8
    assert not any(replicas(four, 4, 0).values())
    assert not any(replicas([member(0, (0, 1, 2, 3))], 4, 1).values())


def test_a_shortage_names_numbers() -> None:
    members = [member(0, (0, 1), counts=(1, 2)), member(2, counts=(1,))]
    need = {k: k * 1_500_000 for k in range(5)}
    text = shortage(
        members,
        4,
        {0: "worker 0", 2: "worker 2"},
        need,
        {0: 4_000_000, 2: 9_000_000},
        {0: [1, 2, 3, 4], 2: [1]},
    )
    assert "worker 0 holds at most 2 (3 take 4.5 MB, and it has 4.0 MB)" in text
    assert "worker 2 holds at most 1 (libraries for [1])" in text
    assert "no worker is left" in shortage([], 4, {}, need, {}, {})


def test_share_bytes_count_weights_and_activations() -> None:
    plan = make_plan()
    weights = 4 * 27 + 4 * 36 + 5 * 4
    values = 2 * 108 + 2 * (4 * 36) + 2 * 5
    assert share_bytes(plan, 1) == 4 * (weights + 5 + values)
    assert share_bytes(plan, 3) == 4 * (3 * weights + 5 + values + 2 * 2 * (4 * 36))
    assert share_bytes(plan, 0) == 0
