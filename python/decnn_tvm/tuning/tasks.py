# SPDX-License-Identifier: Apache-2.0
"""The distinct layers of a network's stages, each with how often it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from decnn_tvm.runtime.library import PACK_SUFFIX
from decnn_tvm.schedules.apply import is_layer
from decnn_tvm.tuning.records import as_module, structural_key


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningTask:
    """A layer to tune.

    Attributes
    ----------
    name
        Of the kernel, as the stages call it.
    layer
        The function, fused and without a schedule.
    weight
        How often it runs for one sample, over the stages of every share.
    """

    name: str
    layer: tirx.PrimFunc
    weight: int


def find_tasks(lowered: Iterable[tvm.IRModule]) -> list[TuningTask]:
    """Return the layers of lowered modules, structurally equal ones once.

    Parameters
    ----------
    lowered
        Modules as `decnn_tvm.lowering.lower_stages` gives them.
    """
    found: dict[int, TuningTask] = {}
    for mod in lowered:
        calls = _calls(mod)
        for var, func in mod.functions_items():
            if is_layer(func) and calls[var.name_hint]:
                key = structural_key(as_module(func))
                known = found.get(key)
                found[key] = TuningTask(
                    name=known.name if known else _free_name(var.name_hint, found.values()),
                    layer=known.layer if known else func,
                    weight=calls[var.name_hint] + (known.weight if known else 0),
                )
    return list(found.values())


def _calls(mod: tvm.IRModule) -> Counter[str]:
    """Count the calls of each kernel in the stages; packing runs once and doesn't count."""
    counts: Counter[str] = Counter()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.call_tir"):
            counts[expr.args[0].name_hint] += 1

    for var, func in mod.functions_items():
        if isinstance(func, relax.Function) and not var.name_hint.endswith(PACK_SUFFIX):
            relax.analysis.post_order_visit(func, visit)
    return counts


def _free_name(name: str, tasks: Iterable[TuningTask]) -> str:
    """Return a name that tells layers of different modules apart."""
    taken = {task.name for task in tasks}
    names = [name, *(f"{name}#{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in names if each not in taken)
