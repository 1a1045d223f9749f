# SPDX-License-Identifier: Apache-2.0
"""Ownership of channels by groups: dealing them out, renaming them, comparing them.

An ownership is one list of global indices per channel group, all of one length, padded with `PAD`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.plan import PAD, Indices

Groups = tuple[Indices, ...]

MAX_PADDING = 1.1
"""How far rounding a share up to whole vectors may raise the largest share."""


def pad(indices: Iterable[int], extent: int) -> Indices:
    """Return `indices` padded to `extent`."""
    listed = tuple(indices)
    return listed + (PAD,) * (extent - len(listed))


def deal(channels: int, groups: int) -> Groups:
    """Deal `channels` contiguous channels to `groups`, the last share padded.

    Shares that do not come out even are rounded up to a multiple of 16, 8 or 4 channels where
    that raises the largest share by at most `MAX_PADDING`, so that blocks stay whole.
    """
    share = math.ceil(channels / groups)
    if channels % groups:
        fits = (math.ceil(share / b) * b for b in (16, 8, 4))
        share = next((s for s in fits if s <= MAX_PADDING * channels / groups), share)
    parts = (range(g * share, min((g + 1) * share, channels)) for g in range(groups))
    return tuple(pad(part, share) for part in parts)


def is_padded(groups: Groups) -> bool:
    """Tell whether any group holds padding."""
    return any(PAD in group for group in groups)


def rename(groups: Groups, names: Mapping[int, int]) -> Groups:
    """Give every index its new name; an index without one becomes padding."""
    return tuple(tuple(names.get(index, PAD) for index in group) for group in groups)


def concat(parts: Sequence[tuple[Groups, int]]) -> Groups:
    """Join ownerships of tensors that are concatenated along their sharded axis.

    Parameters
    ----------
    parts : sequence of (Groups, int)
        Each tensor's ownership and its extent along the axis.
    """
    joined: list[list[int]] = [[] for _ in parts[0][0]]
    offset = 0
    for groups, extent in parts:
        for target, group in zip(joined, groups, strict=True):
            target.extend(PAD if i == PAD else i + offset for i in group)
        offset += extent
    return tuple(tuple(group) for group in joined)


def expand(groups: Groups, features: Callable[[int], Iterable[int]], each: int) -> Groups:
    """Replace every channel by its features, `each` of them: what flatten does to ownership."""
    return tuple(
        tuple(f for c in group for f in ((PAD,) * each if c == PAD else features(c)))
        for group in groups
    )


@dataclass(frozen=True, slots=True)
class ConvGroups:
    """How the groups of a group convolution lie in a channel group's list of input channels.

    Attributes
    ----------
    runs : tuple of tuple of tuple of int
        Per channel group, the input channels of each convolution group it holds, in local order.
    ids : tuple of tuple of int
        The convolution group of each run, `PAD` where a run holds padding alone.
    """

    runs: tuple[tuple[Indices, ...], ...]
    ids: tuple[Indices, ...]


def find_conv_groups(groups: Groups, conv_groups: int, channels: int) -> ConvGroups | None:
    """Cut each list into whole convolution groups; None where it can't be."""
    size = channels // conv_groups
    held = [{c // size for c in group if c != PAD} for group in groups]
    count = max(1, *(len(h) for h in held))
    if size == 1:
        count = len(groups[0])
    if len(groups[0]) % count:
        return None
    length = len(groups[0]) // count
    runs = tuple(tuple(g[i : i + length] for i in range(0, len(g), length)) for g in groups)
    ids = tuple(tuple(_conv_group(run, size) for run in group) for group in runs)
    if any(identity is None for group in ids for identity in group):
        return None
    return ConvGroups(runs, tuple(tuple(i for i in g if i is not None) for g in ids))


def _conv_group(run: Indices, size: int) -> int | None:
    channels = sorted(c for c in run if c != PAD)
    if not channels:
        return PAD
    first = channels[0] // size
    return first if channels == list(range(first * size, (first + 1) * size)) else None


def deal_conv_groups(conv_groups: int, channels: int, groups: int) -> Groups:
    """Deal whole convolution groups out; return the input channels of each channel group.

    With fewer convolution groups than channel groups, several channel groups get the same one and
    `deal_outputs` shares its outputs among them; channel groups that are left over get padding.
    """
    size = channels // conv_groups
    if conv_groups >= groups:
        each = math.ceil(conv_groups / groups)
        parts = (
            range(g * each * size, min((g + 1) * each * size, channels)) for g in range(groups)
        )
        return tuple(pad(part, each * size) for part in parts)
    ratio = groups // conv_groups
    held = (g // ratio for g in range(groups))
    return tuple(
        pad(range(h * size, (h + 1) * size) if h < conv_groups else (), size) for h in held
    )


def deal_outputs(found: ConvGroups, conv_groups: int, out_channels: int) -> Groups:
    """Return the output channels of each channel group that holds `found`.

    A convolution group held by several channel groups has its outputs dealt out among them.
    """
    size = out_channels // conv_groups
    holders: dict[int, int] = {}
    for identity in (i for ids in found.ids for i in ids if i != PAD):
        holders[identity] = holders.get(identity, 0) + 1
    ratio = max(holders.values())
    shares = deal(size, ratio)
    seen: dict[int, int] = {}
    result = []
    for ids in found.ids:
        outputs: list[int] = []
        for identity in ids:
            if identity == PAD:
                outputs += [PAD] * len(shares[0])
                continue
            nth = seen.setdefault(identity, 0)
            seen[identity] += 1
            outputs += [PAD if o == PAD else identity * size + o for o in shares[nth]]
        result.append(tuple(outputs))
    return tuple(result)


def reorder_within_runs(groups: Groups, preferred: Groups, run: int) -> Groups:
    """Sort each run of `run` indices by the index's place in `preferred`.

    Returns `groups` itself where `preferred` holds other channels.
    """
    result = []
    for group, order in zip(groups, preferred, strict=True):
        if sorted(group) != sorted(order):
            return groups
        place = {index: i for i, index in enumerate(order)}
        runs = (group[i : i + run] for i in range(0, len(group), run))
        result.append(tuple(i for r in runs for i in sorted(r, key=lambda c: place[c])))
    return tuple(result)


def fragments(source: Groups, target: Groups | None, channels: int) -> int:
    """Count the contiguous runs that a movement copies, with one group on each device.

    `target` is None where every group (or the coordinator) receives all `channels`.
    """
    where: dict[int, list[tuple[int, int]]] = {}
    for group, indices in enumerate(source):
        for position, index in enumerate(indices):
            where.setdefault(index, []).append((group, position))
    count = 0
    for receiver, wanted in enumerate(target or (tuple(range(channels)),)):
        previous: tuple[int, int] | None = None
        for index in wanted:
            if index == PAD:
                previous = None
                continue
            held = where[index]
            found = next((h for h in held if h[0] == receiver), held[0])
            count += previous is None or found != (previous[0], previous[1] + 1)
            previous = found
    return count
