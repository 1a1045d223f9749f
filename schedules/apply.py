# SPDX-License-Identifier: Apache-2.0
"""Apply the schedule rules to every function of a module, and let no layer go without one."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ApplyDefaultSchedule

from decnn_tvm.errors import CompileError
from decnn_tvm.schedules import (
    dense,
    depthwise_convolution,
    direct_convolution,
    winograd_convolution,
)
from decnn_tvm.schedules.leftovers import Leftovers
from decnn_tvm.schedules.template import operand_shapes

_TEMPLATES = (
    direct_convolution.DirectConvolution(),
    winograd_convolution.WinogradConvolution(),
    depthwise_convolution.DepthwiseConvolution(),
    dense.Dense(),
)
# Layers that must not run without a schedule: by name of their block.
_LAYERS = {template.block for template in _TEMPLATES}
# What TVM's own lowering calls the kernels of such layers. Kernels bear their operators' names;
# the blocks within bear those of variables too, which may say "conv" before a mean.
_UNSCHEDULED = ("conv", "dense", "matmul")
_POOLING = "pool"


@tvm.transform.module_pass(opt_level=0, name="decnn.ScheduleKernels")
class ScheduleKernels:
    """Schedule all loops of a module for the current target."""

    def transform_module(self, mod: tvm.IRModule, ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every PrimFunc of `mod`.

        Raises
        ------
        CompileError
            If no rule takes a convolution, a dense layer or a pooling layer.
        """
        mod = ApplyDefaultSchedule(*_TEMPLATES)(mod)
        _check_scheduled(mod)
        mod = ApplyDefaultSchedule(Leftovers())(mod)
        _check_pooling(mod)
        return mod


def is_layer(func: object) -> bool:
    """Tell whether `func` is a layer that a template schedules."""
    return isinstance(func, tirx.PrimFunc) and not _LAYERS.isdisjoint(_block_names(func))


def open_space(func: tirx.PrimFunc, target: tvm.target.Target) -> list[s_tir.Schedule]:
    """Return the schedules of a layer that a tuner can choose from, the analytic one first."""
    spaces = (template.apply(func, target, True) for template in _TEMPLATES)
    return next((list(space) for space in spaces if space is not None), [])


def _check_scheduled(mod: tvm.IRModule) -> None:
    for var, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False):
            if is_layer(func) or any(word in var.name_hint for word in _UNSCHEDULED):
                raise CompileError(
                    f"no schedule for the layer {var.name_hint!r} (operands and result "
                    f"{operand_shapes(func)}); expected a 2-D float32 convolution in NCHW or a "
                    "dense layer"
                )


def _check_pooling(mod: tvm.IRModule) -> None:
    """Make sure that the reductions of pooling layers start outside their innermost loops."""
    for var, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and _POOLING in var.name_hint:
            sch = s_tir.Schedule(func)
            blocks = sch.get_child_blocks(sch.get_sblock("root"))
            if any(sch.get(block).init is not None for block in blocks):
                raise CompileError(
                    f"no schedule for the pooling layer {var.name_hint!r} (operands and result "
                    f"{operand_shapes(func)}); expected windows and images of constant size"
                )


def _block_names(func: tirx.PrimFunc) -> list[str]:
    sch = s_tir.Schedule(func)
    return [str(sch.get(block).name_hint) for block in sch.get_child_blocks(sch.get_sblock("root"))]
