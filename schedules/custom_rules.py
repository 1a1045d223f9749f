# SPDX-License-Identifier: Apache-2.0
"""A user's own schedule rules, which come before records and templates."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule

from decnn_tvm.errors import CompileError


@tvm.transform.module_pass(opt_level=0, name="decnn.ApplyScheduleRules")
class ApplyScheduleRules:
    """Give each kernel to the first of a user's rules that takes it; leave the others alone.

    Parameters
    ----------
    rules : sequence of tvm.s_tir.dlight.base.ScheduleRule
        ``apply(func, target, tunable)`` returns a schedule, or None for what is not the rule's.

    Raises
    ------
    CompileError
        Something among `rules` is no rule; or, when applied, a rule fails or returns something
        else than a schedule of the function.
    """

    def __init__(self, rules: Sequence[ScheduleRule]) -> None:
        for rule in rules:
            if not isinstance(rule, ScheduleRule):
                raise CompileError(
                    f"schedules: {type(rule).__name__} is no ScheduleRule; derive it from "
                    "tvm.s_tir.dlight.base.ScheduleRule, and give an instance"
                )
        self.rules = tuple(rules)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every kernel that a rule takes."""
        target = tvm.target.Target.current(allow_none=False)
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False):
                schedule = self._schedule(var.name_hint, func, target)
                if schedule is not None:
                    done = schedule.mod["main"].with_attr("tirx.is_scheduled", True)
                    result.update_func(var, done)
        return result

    def _schedule(
        self, name: str, func: tirx.PrimFunc, target: tvm.target.Target
    ) -> s_tir.Schedule | None:
        for rule in self.rules:
            kind = type(rule).__name__
            try:
                found = rule.apply(func, target, False)
            except Exception as error:  # whatever a user's code trips over
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise CompileError(
                    f"schedule rule {kind} failed on the kernel {name!r}: {lines[-1]}; return None "
                    "for kernels that are not the rule's"
                ) from error
            if isinstance(found, s_tir.Schedule) and _shapes(found.mod["main"]) == _shapes(func):
                return found
            if found is not None:
                raise CompileError(
                    f"schedule rule {kind} gave {_what(found)} for the kernel {name!r}; expected "
                    f"a Schedule of its function, with operands {_shapes(func)}, or None"
                )
        return None


def _what(found: object) -> str:
    if isinstance(found, s_tir.Schedule):
        return f"a Schedule with operands {_shapes(found.mod['main'])}"
    return type(found).__name__


def _shapes(func: tirx.PrimFunc) -> list[tuple[tuple[str, ...], str]]:
    return [(tuple(str(n) for n in param.shape), str(param.dtype)) for param in func.params]
