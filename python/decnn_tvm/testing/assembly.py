# SPDX-License-Identifier: Apache-2.0
"""Reading AArch64 assembly: the loop in which a kernel spends its time."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L\w+):")
_BRANCH = re.compile(r"^\s+(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)\s*$")
_INSTRUCTION = re.compile(r"^\s+([a-z]\S*)(?:\s+(.*))?$")


@dataclass(frozen=True, slots=True)
class Loop:
    """An innermost loop.

    Attributes
    ----------
    lines
        Its instructions.
    """

    lines: tuple[str, ...]

    @property
    def multiply_adds(self) -> int:
        """Vector multiply-adds of four floats."""
        return sum(line.split()[0] == "fmla" and ".4s" in line for line in self.lines)

    @property
    def stack_accesses(self) -> int:
        """Loads and stores on the stack: spilled registers."""
        return sum("[sp" in line for line in self.lines)

    @property
    def straight(self) -> tuple[str, ...]:
        """The instructions without branches."""
        return tuple(line for line in self.lines if not _BRANCH.match(f" {line}"))

    @property
    def stores(self) -> int:
        """Stores of any kind."""
        return sum(line.startswith("st") for line in self.lines)


def innermost_loops(assembly: str) -> list[Loop]:
    """Return the loops of `assembly` that contain no other loop."""
    lines = [line.partition("//")[0].rstrip() for line in assembly.splitlines()]
    labels = {match[1]: at for at, line in enumerate(lines) if (match := _LABEL.match(line))}
    spans = []
    for end, line in enumerate(lines):
        branch = _BRANCH.match(line)
        if branch and labels.get(branch[1], end) < end:
            spans.append((labels[branch[1]], end))
    inner = [
        (start, end)
        for start, end in spans
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in spans)
    ]
    return [_loop(lines[start : end + 1]) for start, end in inner]


def hot_loop(assembly: str) -> Loop:
    """Return the innermost loop that is densest in vector multiply-adds: that of the reduction."""
    return max(innermost_loops(assembly), key=lambda loop: loop.multiply_adds / len(loop.lines))


def _loop(lines: list[str]) -> Loop:
    matches = [_INSTRUCTION.match(line) for line in lines]
    found = [match[0].strip() for match in matches if match and not match[1].startswith(".")]
    return Loop(tuple(" ".join(line.split()) for line in found))
