# SPDX-License-Identifier: Apache-2.0
"""What the page's words mean, for somebody who meets them for the first time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from html import escape
from types import MappingProxyType

WAYS: Mapping[str, str] = MappingProxyType(
    {
        "one device": "the whole network on the fastest device.",
        "replicas": "every device holds the whole network and computes samples of its own. A "
        "sample takes as long as on one device.",
        "layer pipeline": "each device holds some of the layers and hands its result to the next. "
        "A sample passes all of them.",
        "row strips": "each device computes some rows of every feature map, with all weights; "
        "neighbours exchange the rows at the seams.",
        "exact channel split": "each device computes some channels of every layer, and needs those "
        "of the others for the next.",
        "decoupled": "the channels fall into groups that need each other at a few places only; "
        "each device computes some groups, with their weights. A dense network becomes another one "
        "by that, and must be trained.",
    }
)
"""By the beginning of an alternative's name."""

MOVES: Mapping[str, str] = MappingProxyType(
    {
        "input": "the sample goes to the devices",
        "output": "the result, or the sums that it is made of, comes back",
        "halo": "neighbours exchange rows at the seams of their strips",
        "all_to_all": "each device sends each other one a part of what it has (a channel shuffle)",
        "all_gather": "all devices get all of it",
        "reduce_scatter": "partial sums are added, each device keeping a part",
        "all_reduce": "partial sums are added on every device",
        "point_to_point": "one device hands over to the next",
    }
)
"""By the kind of a movement."""


def explain_ways(names: Collection[str]) -> str:
    """Return a list of what the alternatives with these names are."""
    return _list(
        (way, text) for way, text in WAYS.items() if any(name.startswith(way) for name in names)
    )


def explain_moves(kinds: Collection[str]) -> str:
    """Return a list of what movements of these kinds are."""
    return _list((kind.replace("_", "-"), text) for kind, text in MOVES.items() if kind in kinds)


def _list(entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in entries)
    return f"<dl>{items}</dl>" if items else ""
