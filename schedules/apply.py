# SPDX-License-Identifier: Apache-2.0
"""Apply the schedule rules to every function of a module, and let no layer go without one."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ApplyDefaultSchedule

from decnn_tvm.errors import CompileError
from decnn_tvm.schedules import dense, depthwise_convolution, direct_convolution
from decnn_tvm.schedules.leftovers import Leftovers

# Layers that must not run without a schedule: by name of their block.
_LAYERS = {dense.BLOCK, depthwise_convolution.BLOCK, direct_convolution.BLOCK}
# The first words of the names that TVM's own lowering gives to the blocks of these layers.
_UNSCHEDULED = ("conv", "group_conv", "depthwise_conv", "DepthwiseConv", "dense")


@tvm.transform.module_pass(opt_level=0, name="decnn.ScheduleKernels")
class ScheduleKernels:
    """Schedule all loops of a module for the current target."""

    def transform_module(self, mod: tvm.IRModule, ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every PrimFunc of `mod`.

        Raises
        ------
        CompileError
            If no rule takes a convolution or a dense layer.
        """
        layers = ApplyDefaultSchedule(
            direct_convolution.DirectConvolution(),
            depthwise_convolution.DepthwiseConvolution(),
            dense.Dense(),
        )
        mod = layers(mod)
        _check_scheduled(mod)
        return ApplyDefaultSchedule(Leftovers())(mod)


def _check_scheduled(mod: tvm.IRModule) -> None:
    for var, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False):
            layers = [name for name in _block_names(func) if _is_layer(name)]
            if layers:
                shapes = [tuple(int(extent) for extent in param.shape) for param in func.params]
                raise CompileError(
                    f"no schedule for the layer {var.name_hint!r} ({', '.join(layers)}; operands "
                    f"and result {shapes}); expected a 2-D float32 convolution in NCHW or a "
                    "dense layer"
                )


def _is_layer(name: str) -> bool:
    return name in _LAYERS or name.startswith(_UNSCHEDULED)


def _block_names(func: tirx.PrimFunc) -> list[str]:
    sch = s_tir.Schedule(func)
    return [str(sch.get(block).name_hint) for block in sch.get_child_blocks(sch.get_sblock("root"))]
