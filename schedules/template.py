# SPDX-License-Identifier: Apache-2.0
"""What a schedule template is: a rule with parameters, analytic unless a tuner chooses them.

``apply(func, target, tunable=False)`` gives the one schedule of the analytic model, and
``tunable=True`` the whole space: a list of schedules, the analytic one first, the others by the
cycles that the model expects of them. A schedule of the space holds all its decisions in its trace,
so a stored trace gives the same kernel again, whatever the model says by then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, Generic, TypeAlias, TypeVar

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.schedule import SBlockRV, ScheduleError

from decnn_tvm.errors import CompileError, last_line
from decnn_tvm.schedules.epilogue import split_blocks

Choice = TypeVar("Choice")
Parts: TypeAlias = "tuple[list[SBlockRV], SBlockRV, list[SBlockRV]]"

LARGEST_SPACE = 48
"""Candidates of a space: what is left out is expected to be far slower."""
# What each parameter away from its analytic value is taken to cost, so that spaces start nearby.
STEP = 0.03


class Template(ScheduleRule, Generic[Choice]):  # type: ignore[misc]
    """Schedule functions around the block called `block`."""

    block: str

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        """Return the analytic schedule or all of the space; None for other functions.

        Raises
        ------
        CompileError
            The template doesn't go with the function, which is a mistake of ours.
        """
        try:
            return self._apply(func, target, tunable)
        except ScheduleError as error:
            raise CompileError(
                f"the schedule of {self.block!r} does not fit a layer with operands and result "
                f"{operand_shapes(func)} ({last_line(error)}); expected it to fit every one: "
                "please report it with the model. Another strategy or wire may do meanwhile"
            ) from error

    def _apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        sch = s_tir.Schedule(func)
        parts = split_blocks(sch, self.block)
        if parts is None:
            return None
        if tunable:
            choices = self.choices(sch, parts, target)[:LARGEST_SPACE]
            space = [sch.copy() for _ in choices]
            for each, choice in zip(space, choices, strict=True):
                self.schedule(each, parts, target, choice)
            return space
        self.schedule(sch, parts, target, self.default(sch, parts[1], target))
        return sch

    @abstractmethod
    def default(self, sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target) -> Choice:
        """Return the analytic choice, which the annotations of the block hold."""

    @abstractmethod
    def choices(self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target) -> list[Choice]:
        """Return the choices that fit the function, the analytic one first."""

    @abstractmethod
    def schedule(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target, choice: Choice
    ) -> None:
        """Schedule the function by `choice`."""


def ranked(default: Choice, estimates: Sequence[tuple[float, Choice]]) -> list[Choice]:
    """Return `default` and then the other choices, the fewest estimated cycles first."""
    best_first = sorted(estimates, key=lambda pair: pair[0])
    return [default, *(choice for _, choice in best_first if choice != default)]


def extents(sch: s_tir.Schedule, block: SBlockRV) -> list[int]:
    """Return the extents of the axes of `block`."""
    return [int(axis.dom.extent) for axis in sch.get(block).iter_vars]


def operands(sch: s_tir.Schedule, block: SBlockRV) -> list[list[int]]:
    """Return the shapes of what `block` reads, but for its own result."""
    result: Any = sch.get(block).writes[0].source
    sources = [region.source for region in sch.get(block).reads]
    return [
        [int(extent) for extent in source.shape] for source in sources if not source.same_as(result)
    ]


def operand_shapes(func: tirx.PrimFunc) -> list[tuple[int, ...]]:
    """Return the shapes of the operands and the result of a function."""
    return [tuple(int(extent) for extent in param.shape) for param in func.params]


def divisors(size: int, *, multiple: int = 1) -> list[int]:
    """Return the divisors of `size` that are multiples of `multiple`."""
    return [value for value in range(multiple, size + 1, multiple) if size % value == 0]


def float_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a float32 tensor."""
    return 4 * prod(shape)
