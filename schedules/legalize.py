# SPDX-License-Identifier: Apache-2.0
"""Lower convolutions and dense layers to the computations that the schedule rules know.

`legalize_map` goes into ``LegalizeOps(customize_legalize_map=...)``; it reads the current target.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import relax

from decnn_tvm.schedules.convolution_lowering import (
    lower_convolution,
    lower_convolution_1d,
    lower_transposed_convolution,
)
from decnn_tvm.schedules.dense_lowering import lower_matmul

Lowering = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalize_map(*, winograd: bool = False) -> dict[str, Lowering]:
    """Return the lowerings by name of the Relax operator.

    Parameters
    ----------
    winograd
        Allow Winograd's method, whose packed weights are 4 times as large.
    """
    return {
        "relax.nn.conv1d": lower_convolution_1d,
        "relax.nn.conv2d": partial(lower_convolution, winograd=winograd),
        "relax.nn.conv2d_transpose": lower_transposed_convolution,
        "relax.matmul": lower_matmul,
    }
