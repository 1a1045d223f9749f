# SPDX-License-Identifier: Apache-2.0
"""How a tensor is spread over the groups of a plan, and over the devices that own them.

What a group is depends on the plan's strategy: some channels, a strip of rows, a stage of a
pipeline, a turn of a replica. Placements speak of groups alone; `held` says what a device holds.
Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

PAD = -1
"""Index of padding: it holds nothing that counts, and nobody sends it."""

Indices: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replicated:
    """Every device holds the whole tensor."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Every device holds a summand of the tensor; the value is the sum over devices."""


@dataclass(frozen=True, slots=True)
class Host:
    """The tensor lives at the coordinator: a network input or output."""


@dataclass(frozen=True, slots=True)
class Owned:
    """The device that owns `group` holds the whole tensor, and nobody else does."""

    group: int


@dataclass(frozen=True, slots=True)
class Sharded:
    """Each channel group holds some indices of one axis.

    Attributes
    ----------
    axis : int
        The axis that is spread.
    groups : tuple of tuple of int
        For each channel group the global indices it holds, in local order; `PAD` for padding,
        whose weights are zero. All groups hold equally many, so one program serves every group.
        Sets may overlap. A device with several groups holds their concatenation, in ascending
        group order.
    """

    axis: int
    groups: tuple[Indices, ...]

    def __post_init__(self) -> None:
        if len({len(group) for group in self.groups}) != 1:
            raise ValueError(f"groups of unequal size: {[len(g) for g in self.groups]}")

    @property
    def extent(self) -> int:
        """Elements along the axis that one group holds, padding included."""
        return len(self.groups[0])


@dataclass(frozen=True, slots=True)
class Strips:
    """Each group holds a strip of rows; a device with several holds one longer strip.

    A device with the k groups from a on, which must be neighbours, holds the ``k * step + extra``
    rows from ``a * step + first`` on. Strips overlap where windows need a halo. What lies outside
    the tensor is padding; so devices with equally many groups run the same program, at the edge of
    the image and inside.

    Attributes
    ----------
    axis : int
        The axis of the rows.
    step : int
        Rows from the start of one group's strip to that of the next.
    first : int
        Where the strip of group 0 starts, below 0 if it starts with padding.
    extra : int
        Rows of a strip beyond `step` for each group; may be below 0.
    padding : {"any", "zero", "lowest"}
        What padding holds: finite garbage, zeros, or the element type's lowest value.
    """

    axis: int
    step: int
    first: int = 0
    extra: int = 0
    padding: Literal["any", "zero", "lowest"] = "any"

    def __post_init__(self) -> None:
        if self.step < 1 or self.step + self.extra < 1:
            raise ValueError(f"strips without rows: {self}")
        if self.padding not in ("any", "zero", "lowest"):
            raise ValueError(f"padding of {self.padding!r}")

    def extent(self, group_count: int) -> int:
        """Rows that a device with `group_count` groups holds, padding included."""
        return group_count * self.step + self.extra


Placement: TypeAlias = Replicated | Partial | Host | Owned | Sharded | Strips


def local_shape(shape: tuple[int, ...], placement: Placement, group_count: int) -> tuple[int, ...]:
    """Return the shape of a tensor on a device that holds it and owns `group_count` groups."""
    if not isinstance(placement, Sharded | Strips):
        return shape
    local = list(shape)
    if isinstance(placement, Strips):
        local[placement.axis] = placement.extent(group_count)
    else:
        local[placement.axis] = placement.extent * group_count
    return tuple(local)


def narrow_axis(source: Placement, target: Placement, rank: int) -> int | None:
    """Return the axis of the channels of a tensor that may travel narrower than float32.

    None for what may not: inputs, outputs, partial sums, and what has no feature map's channels.
    """
    if isinstance(target, Host):
        return None
    if isinstance(source, Sharded):
        return source.axis
    return 1 if isinstance(source, Owned | Strips) and rank == 4 else None


def holds(placement: Placement, groups: Sequence[int]) -> bool:
    """Tell whether a device with these groups holds a part of a tensor placed so."""
    if isinstance(placement, Owned):
        return placement.group in groups
    return bool(groups) and not isinstance(placement, Host)


def held(placement: Placement, extent: int, groups: Sequence[int]) -> Indices:
    """Return the indices along the spread axis that a device with some groups holds, in order.

    Parameters
    ----------
    placement : Placement
        How the tensor is spread; all indices where it is not.
    extent : int
        Extent of the axis.
    groups : sequence of int
        The device's groups, at least one.
    """
    if isinstance(placement, Sharded):
        return tuple(index for group in sorted(groups) for index in placement.groups[group])
    if isinstance(placement, Strips):
        start = min(groups) * placement.step + placement.first
        rows = range(start, start + placement.extent(len(groups)))
        return tuple(row if 0 <= row < extent else PAD for row in rows)
    return tuple(range(extent))


def placement_to_json(placement: Placement) -> dict[str, Any]:
    """Return a placement as JSON data."""
    kind = {"kind": type(placement).__name__.lower()}
    if isinstance(placement, Sharded):
        groups = [to_ranges(group) for group in placement.groups]
        return kind | {"axis": placement.axis, "groups": groups}
    return kind | asdict(placement)


def placement_from_json(data: dict[str, Any]) -> Placement:
    """Read what `placement_to_json` wrote."""
    fields = {name: value for name, value in data.items() if name != "kind"}
    if data["kind"] == "sharded":
        groups = tuple(from_ranges(ranges) for ranges in fields["groups"])
        return Sharded(fields["axis"], groups)
    kinds: dict[str, type[Replicated | Partial | Host | Owned | Strips]]
    kinds = {kind.__name__.lower(): kind for kind in (Replicated, Partial, Host, Owned, Strips)}
    return kinds[data["kind"]](**fields)


def to_ranges(indices: Indices) -> list[list[int]]:
    """Write indices as ``[start, step, count]`` ranges."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges:
            start, step, count = ranges[-1]
            if count == 1 or index == start + step * count:
                ranges[-1] = [start, index - start if count == 1 else step, count + 1]
                continue
        ranges.append([index, 1, 1])
    return ranges


def from_ranges(ranges: Iterable[Sequence[int]]) -> Indices:
    """Read what `to_ranges` wrote."""
    return tuple(start + step * i for start, step, count in ranges for i in range(count))
