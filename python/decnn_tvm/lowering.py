# SPDX-License-Identifier: Apache-2.0
"""Lower the stages of a network to one library.

For every stage function ``f`` of the module the library holds two functions:

``f_transform_params(weights)``
    takes one tuple (or list) of all weights of the stage, in the order of the function's
    parameters, and returns a tuple of packed weights. It is there for every stage: without weights
    it takes and returns an empty tuple; a weight that needs no packing may come back as the same
    tensor.
``f(*inputs, *packed)``
    runs the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.passes.use_blocked_layouts import UseBlockedLayouts
from decnn_tvm.schedules.apply import ScheduleKernels
from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.schedules.custom_rules import ApplyScheduleRules
from decnn_tvm.schedules.legalize import legalize_map
from decnn_tvm.schedules.row_slices import lower_row_slice

if TYPE_CHECKING:
    from tvm.s_tir.dlight.base import ScheduleRule

    from decnn_tvm.tuning.records import Records

__all__ = ["build_stages", "lower_stages", "preferred_block"]


def build_stages(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    *,
    winograd: bool = False,
    records: Sequence[Records] = (),
    schedules: Sequence[ScheduleRule] = (),
) -> relax.VMExecutable:
    """Compile every Relax function of `mod`.

    Parameters
    ----------
    mod
        Stage functions: one dataflow block each, static shapes, logical NCHW and OIHW, the
        attribute ``num_input`` (the parameters after the first ``num_input`` are weights),
        optionally ``decnn.input_blocks`` and ``decnn.output_blocks``: the channel block of each
        tensor that comes in or goes out as ``NCHW{b}c``; 1 stands for the plain layout.
    target
        CPU to compile for.
    winograd
        Compute wide 3 x 3 convolutions by Winograd's method where it is faster. Their packed
        weights are then 4 times as large.
    records
        Measured schedules, the first that know a layer for `target` counting; other layers get the
        analytic ones.
    schedules
        A user's own rules, which come first.

    Returns
    -------
    relax.VMExecutable
        With ``f`` and ``f_transform_params`` for every function ``f``.

    Raises
    ------
    CompileError
        If there is no code for an operator or a layer.
    """
    mod = lower_stages(mod, target, winograd=winograd)
    with target:
        mod = tvm.transform.Sequential(
            [ApplyScheduleRules(schedules), *record_passes(records), ScheduleKernels()]
        )(mod)
    return tvm.compile(mod, target=target)


def lower_stages(
    mod: tvm.IRModule, target: tvm.target.Target, *, winograd: bool = False
) -> tvm.IRModule:
    """Return the stages as fused kernels without schedules; the parameters of `build_stages`."""
    with target:
        mod = tvm.transform.Sequential([*layout_passes(), *kernel_passes(winograd=winograd)])(mod)
        _check_lowered(mod)
        return tvm.transform.Sequential(fusion_passes())(mod)


def layout_passes() -> list[tvm.transform.Pass]:
    """Return the passes that settle the layouts."""
    return [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        UseBlockedLayouts(),
    ]


def kernel_passes(*, winograd: bool = False) -> list[tvm.transform.Pass]:
    """Return the passes that turn operators into loops and split off the packing of weights."""
    return [
        relax.transform.LegalizeOps(
            {**legalize_map(winograd=winograd), "relax.strided_slice": lower_row_slice}
        ),
        relax.transform.LiftTransformParams(),
    ]


def fusion_passes() -> list[tvm.transform.Pass]:
    """Return the passes that fuse loops."""
    return [
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]


def record_passes(records: Sequence[Records]) -> list[tvm.transform.Pass]:
    """Return the passes that schedule layers as records say."""
    if not records:
        return []
    from decnn_tvm.tuning.records import ApplyRecords

    return [ApplyRecords(each) for each in records]


# Relax operators that TVM's pipeline lowers afterwards.
_LATE_OPS = frozenset(
    f"relax.{name}" for name in "call_tir shape_of sort argsort topk cumsum cumprod".split()
)


def _check_lowered(mod: tvm.IRModule) -> None:
    for var, func in mod.functions_items():
        if isinstance(func, relax.Function):
            left = sorted(_operators(func) - _LATE_OPS)
            if left:
                raise CompileError(
                    f"stage {var.name_hint!r}: TVM has no kernel for "
                    f"{', '.join(left)}; replace these operators in the network"
                )


def _operators(func: relax.Function) -> set[str]:
    names: set[str] = set()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            names.add(expr.op.name)
        if isinstance(expr, relax.ExternFunc):
            # A function of the compiler's process; no worker has it.
            names.add(str(expr.global_symbol))

    relax.analysis.post_order_visit(func, visit)
    return names
