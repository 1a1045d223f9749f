# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnn_tvm.placement.ownership import (
    MAX_PADDING,
    concat,
    deal,
    deal_conv_groups,
    deal_outputs,
    expand,
    find_conv_groups,
    fragments,
    is_padded,
    rename,
    reorder_within_runs,
)
from decnn_tvm.plan import PAD

small = st.integers(1, 12)
fast = settings(max_examples=60, deadline=None, derandomize=True)


def real(groups):
    return sorted(i for group in groups for i in group if i != PAD)


@fast
@given(channels=st.integers(1, 300), groups=small)
def test_deal_gives_every_channel_once_in_order(channels, groups):
    shares = deal(channels, groups)
    assert len(shares) == groups and len({len(s) for s in shares}) == 1
    assert [i for s in shares for i in s if i != PAD] == [*range(channels)]
    assert is_padded(shares) == (len(shares[0]) * groups != channels)
    least = -(-channels // groups)
    assert len(shares[0]) == least or len(shares[0]) <= MAX_PADDING * channels / groups


def test_deal_pads_to_whole_vectors_only_where_it_is_cheap():
    assert [len(s) for s in deal(1000, 3)] == [336] * 3
    assert deal(5, 2) == ((0, 1, 2), (3, 4, PAD))
    assert deal(1, 3) == ((0,), (PAD,), (PAD,))


@fast
@given(parts=st.lists(st.integers(1, 30), min_size=1, max_size=4), groups=small)
def test_concat_joins_group_by_group(parts, groups):
    joined = concat([(deal(extent, groups), extent) for extent in parts])
    assert real(joined) == [*range(sum(parts))]
    first = deal(parts[0], groups)
    assert all(j[: len(f)] == f for j, f in zip(joined, first, strict=True))


def test_rename_and_expand_keep_padding():
    groups = ((0, 2), (1, PAD))
    assert rename(groups, {0: 5, 1: 6}) == ((5, PAD), (6, PAD))
    assert expand(groups, lambda c: (2 * c, 2 * c + 1), 2) == ((0, 1, 4, 5), (2, 3, PAD, PAD))


@fast
@given(conv_groups=small, size=st.integers(1, 6), outputs=st.integers(1, 6), groups=small)
def test_dealt_conv_groups_are_found_and_their_outputs_dealt_once(
    conv_groups, size, outputs, groups
):
    channels = conv_groups * size
    inputs = deal_conv_groups(conv_groups, channels, groups)
    assert len(inputs) == groups and len({len(g) for g in inputs}) == 1
    assert {*real(inputs)} == {*range(channels)}
    found = find_conv_groups(inputs, conv_groups, channels)
    assert found is not None
    dealt = deal_outputs(found, conv_groups, conv_groups * outputs)
    assert real(dealt) == [*range(conv_groups * outputs)]
    for group, ids in zip(dealt, found.ids, strict=True):
        length = len(group) // len(ids)
        for i, identity in enumerate(ids):
            held = [c for c in group[i * length : (i + 1) * length] if c != PAD]
            assert all(c // outputs == identity for c in held)


@pytest.mark.parametrize(
    ("groups", "conv_groups", "channels", "ids"),
    [
        (((0, 1, 2, 3), (4, 5, 6, 7)), 2, 8, ((0,), (1,))),
        (((0, 1, 2, 3), (4, 5, 6, 7)), 4, 8, ((0, 1), (2, 3))),
        (((1, 0, 3, 2), (6, 7, 4, 5)), 4, 8, ((0, 1), (3, 2))),
        (((0, 1, 2, 3), (4, 5, PAD, PAD)), 3, 6, ((0, 1), (2, PAD))),
        (((0, 2), (1, 3)), 2, 4, None),
        (((0, 1, 2), (3, 4, 5)), 2, 6, ((0,), (1,))),
        (((0, 1, 2), (3, 4, 5)), 3, 6, None),
        (((3, 0), (1, 2)), 4, 4, ((3, 0), (1, 2))),
    ],
)
def test_find_conv_groups(groups, conv_groups, channels, ids):
    found = find_conv_groups(groups, conv_groups, channels)
    assert (found and found.ids) == ids


def test_fewer_conv_groups_than_channel_groups_share_one():
    inputs = deal_conv_groups(2, 8, 4)
    assert inputs == ((0, 1, 2, 3), (0, 1, 2, 3), (4, 5, 6, 7), (4, 5, 6, 7))
    found = find_conv_groups(inputs, 2, 8)
    assert deal_outputs(found, 2, 8) == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_reorder_within_runs():
    groups = ((0, 1, 2, 3), (4, 5, 6, 7))
    preferred = ((3, 1, 2, 0), (4, 5, 7, 6))
    assert reorder_within_runs(groups, preferred, 4) == preferred
    assert reorder_within_runs(groups, preferred, 2) == ((1, 0, 3, 2), (4, 5, 7, 6))
    assert reorder_within_runs(groups, ((0, 1, 2, 4), (3, 5, 6, 7)), 4) is groups


def test_fragments_counts_contiguous_runs():
    source = ((0, 1, 2, 3), (4, 5, 6, 7))
    assert fragments(source, None, 8) == 2
    assert fragments(source, source, 8) == 2
    assert fragments(source, ((0, 2, 4, 6), (1, 3, 5, 7)), 8) == 8
    assert fragments(((0, 2, 1, 3), (4, 6, 5, 7)), ((0, 2, 4, 6), (1, 3, 5, 7)), 8) == 4
    assert fragments(source, ((0, 1, PAD, 2), (4, 5, 6, 7)), 8) == 3
