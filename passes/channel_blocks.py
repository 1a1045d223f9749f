# SPDX-License-Identifier: Apache-2.0
"""Choose one channel block for every feature map of a function.

Feature maps that elementwise operators, pooling, depthwise convolutions or concatenations tie
together form one class, and a class has one block, so that no layout is changed inside a residual
chain. A block divides the channels of every member, and the channels per group of every
convolution that reads or writes one, so that it never straddles a channel group. A class that
reaches a boundary of the function takes the block of that boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import tvm
from tvm import relax

from decnn_tvm.passes.weights import static_shape
from decnn_tvm.schedules.blocks import preferred_block

# Operators without an axis: out[i] depends on in[i] alone (or on a broadcast of it).
ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in (
        "abs add astype ceil clip cos divide equal erf exp floor greater greater_equal less "
        "less_equal log logical_and logical_not logical_or maximum minimum multiply negative "
        "nn.dropout nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.relu6 nn.selu nn.silu nn.softplus "
        "not_equal power round rsqrt sigmoid sign sin sqrt square subtract tanh where isnan"
    ).split()
)
POOLING = frozenset(
    f"relax.nn.{name}" for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
)
REDUCTIONS = frozenset(f"relax.{name}" for name in ("mean", "sum", "max", "min"))


def is_feature_map(expr: relax.Expr) -> bool:
    """Tell whether `expr` is a tensor (N, C, H, W) of static shape."""
    ty = expr.ty
    return (
        isinstance(ty, relax.TensorType)
        and ty.ndim == 4
        and isinstance(ty.shape, relax.ShapeExpr)
        and all(isinstance(extent, (int, tvm.tirx.IntImm)) for extent in ty.shape)
    )


def is_plain_convolution(call: relax.Call) -> bool:
    """Tell whether `call` is a 2-D convolution of NCHW data with OIHW weights."""
    if call.op != tvm.ir.Op.get("relax.nn.conv2d") or not is_feature_map(call.args[0]):
        return False
    layouts = (call.attrs.data_layout, call.attrs.kernel_layout, call.attrs.out_layout)
    return layouts == ("NCHW", "OIHW", "NCHW")


def is_depthwise(call: relax.Call) -> bool:
    """Tell whether the convolution `call` has one input and one output channel per group."""
    weight = static_shape(call.args[1])
    return int(call.attrs.groups) == weight[0] and weight[1] == 1


def keeps_channels(call: relax.Call) -> bool:
    """Tell whether `call` maps channel c to channel c of its result, or joins tensors."""
    if not isinstance(call.op, tvm.ir.Op) or not is_feature_map(call):
        return False
    name = call.op.name
    if name in REDUCTIONS:
        return is_spatial_reduction(call)
    if name == "relax.concat":
        return call.attrs.axis is not None and int(call.attrs.axis) % 4 in (1, 2)
    if name == "relax.strided_slice":
        return [int(axis.value) % 4 for axis in call.args[1].fields] == [2]
    return (
        name in ELEMENTWISE
        or (name in POOLING and call.attrs.layout == "NCHW" and call.attrs.out_layout == "NCHW")
        or (is_plain_convolution(call) and is_depthwise(call))
    )


def is_spatial_reduction(call: relax.Call) -> bool:
    """Tell whether the reduction `call` runs over H, W or both of a feature map."""
    if not is_feature_map(call.args[0]) or call.attrs.axis is None:
        return False
    return {int(axis) % 4 for axis in call.attrs.axis} <= {2, 3}


class _Classes:
    """Union-find over Vars; a class knows its unit of channels and its boundary block."""

    def __init__(self) -> None:
        self._parent: dict[relax.Var, relax.Var] = {}
        self._unit: dict[relax.Var, int] = {}
        self._fixed: dict[relax.Var, int] = {}

    def root(self, var: relax.Var) -> relax.Var:
        while self._parent.setdefault(var, var) != var:
            var = self._parent[var]
        return var

    def restrict(self, var: relax.Var, unit: int) -> None:
        """Let blocks divide `unit`."""
        root = self.root(var)
        self._unit[root] = gcd(self._unit.get(root, 0), unit)

    def fix(self, var: relax.Var, block: int) -> None:
        """Ask for `block`; the first one asked for wins."""
        self._fixed.setdefault(self.root(var), block)

    def tie(self, one: relax.Var, other: relax.Var) -> None:
        """Make one class of two."""
        kept, lost = self.root(one), self.root(other)
        if kept != lost:
            self._parent[lost] = kept
            self.restrict(kept, self._unit.pop(lost, 0))
            if lost in self._fixed:
                self._fixed.setdefault(kept, self._fixed.pop(lost))

    def block(self, var: relax.Var) -> int:
        root = self.root(var)
        unit, fixed = self._unit.get(root, 0), self._fixed.get(root, 0)
        if unit == 0:
            return 1
        return fixed if fixed and unit % fixed == 0 else preferred_block(unit)


def choose_blocks(
    bindings: list[relax.Binding], boundary: Mapping[relax.Var, int]
) -> dict[relax.Var, int]:
    """Return the channel block of every feature map of a function.

    Parameters
    ----------
    bindings
        The bindings of the function.
    boundary
        Blocks (above 1) of the feature maps that come in or go out.

    Returns
    -------
    dict
        From variable to block; 1 stands for the plain layout.
    """
    classes = _Classes()
    seen: set[relax.Var] = set(boundary)
    for binding in bindings:
        if isinstance(binding.value, relax.Call):
            seen.update(_visit(classes, binding.var, binding.value))
    for var, block in boundary.items():
        classes.restrict(var, static_shape(var)[1])
        classes.fix(var, block)
    return {var: classes.block(var) for var in seen}


def _visit(classes: _Classes, out: relax.Var, call: relax.Call) -> list[relax.Var]:
    """Note what `call` asks of the classes of its operands and of its result."""
    if keeps_channels(call):
        members = [arg for arg in _flat(call) if _moves(arg) and _same_channels(call, arg)]
        for member in [*members, out]:
            classes.tie(out, member)
            classes.restrict(member, static_shape(member)[1])
        return [*members, out]
    if is_plain_convolution(call):
        groups = int(call.attrs.groups)
        ends = [out, call.args[0]] if isinstance(call.args[0], relax.Var) else [out]
        for end in ends:
            classes.restrict(end, static_shape(end)[1] // groups)
        return ends
    return []


def _flat(call: relax.Call) -> list[relax.Expr]:
    parts = [list(arg.fields) if isinstance(arg, relax.Tuple) else [arg] for arg in call.args]
    return [expr for part in parts for expr in part]


def _moves(arg: relax.Expr) -> bool:
    return isinstance(arg, relax.Var) and is_feature_map(arg)


def _same_channels(call: relax.Call, arg: relax.Expr) -> bool:
    if call.op == tvm.ir.Op.get("relax.concat") or static_shape(arg)[1] == static_shape(call)[1]:
        # A per-channel parameter (1, C, 1, 1) follows the others without a say.
        return static_shape(arg)[2:] != (1, 1) or static_shape(call)[2:] == (1, 1)
    return False
