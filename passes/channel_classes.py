# SPDX-License-Identifier: Apache-2.0
"""Channels that must be widened alike: classes tied by sums, concats and pass-through layers.

A tensor's channels are a list of classes, one after the other (several after a concatenation). A
class that turns out to line up with several others becomes their sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from decnn_tvm.errors import DecoupleError

Segments = tuple[int, ...]


@dataclass(slots=True)
class ChannelClasses:
    """Disjoint sets of channel classes: their sizes, which must stay, and the layers' classes."""

    sizes: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    layers: dict[str, Segments] = field(default_factory=dict)
    _became: dict[int, Segments] = field(default_factory=dict)

    def new(self, size: int, *, fixed: bool = False) -> Segments:
        """Return a class of `size` channels of its own."""
        self.sizes.append(size)
        if fixed:
            self.fixed.add(len(self.sizes) - 1)
        return (len(self.sizes) - 1,)

    def resolve(self, segments: Segments) -> Segments:
        """Return what `segments` stand for now."""
        found: list[int] = []
        for each in segments:
            found += self.resolve(self._became[each]) if each in self._became else [each]
        return tuple(found)

    def fix(self, segments: Segments) -> None:
        """Keep the size of these channels."""
        self.fixed.update(segments)

    def tie(self, left: Segments, right: Segments, where: str) -> None:
        """Let two equally long lists of channels be widened alike."""
        a, b = list(self.resolve(left)), list(self.resolve(right))
        while a and b:
            (x, *a), (y, *b) = a, b
            if x == y:
                continue
            if self.sizes[x] == self.sizes[y]:
                self._became[x] = (y,)
            elif self.sizes[x] > self.sizes[y]:
                a = self._split(x, y) + a
            else:
                b = self._split(y, x) + b
            a, b = list(self.resolve(tuple(a))), list(self.resolve(tuple(b)))
        if a or b:
            raise DecoupleError(f"{where} joins different numbers of channels")

    def _split(self, large: int, first: int) -> list[int]:
        (rest,) = self.new(self.sizes[large] - self.sizes[first])
        self._became[large] = (first, rest)
        return [rest]

    def settle(self) -> None:
        """Let what the tied classes became stay where they had to."""
        for each in self._became:
            if each in self.fixed:
                self.fix(self.resolve((each,)))
