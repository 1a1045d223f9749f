# SPDX-License-Identifier: Apache-2.0
"""Lower slices of rows so that what reads them can read the whole tensor at an offset instead.

TVM's own lowering is "injective", which its fusion never puts behind a convolution. A slice along
rows is one element for each of its result, like a broadcast: in the epilogue of a convolution it is
inlined, and no rows are copied.
"""

from __future__ import annotations

from tvm import relax, te

BROADCAST = 1
"""TVM's number for functions that fusion may put before any elementwise one."""


def lower_row_slice(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return the lowering of a slice; rows of a feature map are elementwise to fusion."""
    axes = [int(axis.value) for axis in call.args[1].fields]
    if axes != [2] or len(call.args) > 4:
        return call.op.get_attr("FLegalize")(builder, call)
    first = int(call.args[2].fields[0].value)
    shape = [int(extent) for extent in call.ty.shape]

    def rows(data: te.Tensor) -> te.Tensor:
        return te.compute(
            shape, lambda n, c, y, *rest: data(n, c, y + first, *rest), name="row_slice"
        )

    return builder.call_te(
        rows,
        call.args[0],
        primfunc_name_hint="rows",
        primfunc_attrs={"op_pattern": BROADCAST},
    )
