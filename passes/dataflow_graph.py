# SPDX-License-Identifier: Apache-2.0
"""A Relax function read as a graph of tensors, and rewritten binding by binding.

The graph separates *data* (what depends on a data input) from *weights* (what depends on weight
parameters and constants alone, such as a bias after ``reshape``), and ignores what does not reach
the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.passes.weights import inputs_of, weight_vars

Rewrite = Callable[[relax.BlockBuilder, relax.Var, relax.Expr], relax.Expr]
_ACTIVATIONS = frozenset(
    f"relax.{name}"
    for name in (
        "nn.relu nn.leakyrelu nn.prelu nn.relu6 nn.silu nn.gelu nn.gelu_tanh nn.dropout nn.selu "
        "nn.softplus clip sigmoid tanh exp hardswish negative abs sqrt square erf"
    ).split()
)
_SHAPED_LIKE_INPUT = frozenset({"relax.maximum", "relax.minimum"})


@dataclass(frozen=True, slots=True, eq=False)
class DataflowGraph:
    """The bindings of a function that carry data, in order.

    Attributes
    ----------
    func : relax.Function
        The function that was read.
    values : dict of Var to Expr
        Every binding of the function, in order.
    data : dict of Var to tuple of Var
        The data inputs (no sources) and every binding that depends on one and that the result
        needs, in order, each with the data it reads.
    consumers : dict of Var to tuple of Var
        The reverse of `data`.
    outputs : tuple of Var
        The data that the function returns.
    """

    func: relax.Function
    values: dict[relax.Var, relax.Expr]
    data: dict[relax.Var, tuple[relax.Var, ...]]
    consumers: dict[relax.Var, tuple[relax.Var, ...]]
    outputs: tuple[relax.Var, ...]

    def call(self, var: relax.Var, *names: str) -> Any:
        """Return the call that defines `var` if its operator is one of `names`."""
        value = self.values.get(var)
        return value if op_name(value) in names else None

    def is_activation(self, var: relax.Var) -> bool:
        """Tell whether `var` is one data tensor after an activation, normalisation or bias."""
        value = self.values.get(var)
        if len(self.data[var]) != 1 or value is None:
            return False
        if isinstance(value, relax.TupleGetItem):
            return True
        name = op_name(value)
        if name in _ACTIVATIONS or name == "relax.nn.batch_norm":
            return True
        elementwise = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")
        same = shape_of(var) == shape_of(self.data[var][0])
        return same and (name in elementwise or name in _SHAPED_LIKE_INPUT or name == "call_tir")


def read_graph(func: relax.Function) -> DataflowGraph:
    """Read `func`, whose body must be straight-line code (what TVM's importers give)."""
    values = {
        binding.var: binding.value for block in func.body.blocks for binding in block.bindings
    }
    weights = set(weight_vars(func))
    sources: dict[relax.Var, tuple[relax.Var, ...]] = {var: () for var in inputs_of(func)}
    for var, value in values.items():
        read = tuple(dict.fromkeys(v for v in _vars(value) if v in sources))
        if read and var not in weights:
            sources[var] = read
    outputs = tuple(v for v in _vars(func.body.body) if v in sources)
    needed = _ancestors(outputs, sources)
    data = {var: read for var, read in sources.items() if var in needed}
    consumers: dict[relax.Var, list[relax.Var]] = {var: [] for var in data}
    for var, read in data.items():
        for source in read:
            consumers[source].append(var)
    return DataflowGraph(
        func, values, data, {var: tuple(users) for var, users in consumers.items()}, outputs
    )


def _ancestors(
    outputs: tuple[relax.Var, ...], sources: Mapping[relax.Var, tuple[relax.Var, ...]]
) -> set[relax.Var]:
    needed, queue = set(outputs), list(outputs)
    while queue:
        new = [var for var in sources[queue.pop()] if var not in needed]
        needed.update(new)
        queue.extend(new)
    return needed


def _vars(value: relax.Expr) -> list[relax.Var]:
    found: list[relax.Var] = []
    relax.analysis.post_order_visit(
        value, lambda expr: found.append(expr) if isinstance(expr, relax.Var) else None
    )
    return found


def op_name(value: Any) -> str:
    """Return the operator of a call (``relax.nn.relu``, ``call_tir``), or an empty string."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return ""
    return str(value.op.name).replace("relax.call_tir", "call_tir")


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Return the static shape of a tensor, or an empty tuple for anything else."""
    shape = getattr(expr.ty, "shape", None)
    return () if shape is None else tuple(int(extent) for extent in shape)


def convolution(value: Any) -> Any:
    """Return `value` if it is a two-dimensional NCHW/OIHW convolution with a named weight."""
    if op_name(value) != "relax.nn.conv2d" or not isinstance(value.args[1], relax.Var):
        return None
    nchw = value.attrs.data_layout == "NCHW" and value.attrs.kernel_layout == "OIHW"
    return value if nchw else None


def convolve(data: relax.Expr, weight: relax.Expr, like: relax.Call, groups: int) -> relax.Call:
    """Return a convolution of `data` by `weight` with the attributes of `like`, but `groups`."""
    attrs = like.attrs
    return relax.op.nn.conv2d(
        data,
        weight,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        groups=groups,
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype=attrs.out_dtype,
    )


def is_depthwise(call: relax.Call) -> bool:
    """Tell whether a convolution has one input channel per group, and several groups."""
    return int(call.attrs.groups) > 1 and shape_of(call.args[1])[1] == 1


def layer_name(call: relax.Call) -> str:
    """Return the name of a layer: that of its weight, without ``.weight``."""
    return str(call.args[1].name).removesuffix(".weight")


def reads_raw_input(graph: DataflowGraph) -> set[relax.Var]:
    """Return the data that no convolution or dense layer has touched yet."""
    raw: set[relax.Var] = set()
    for var, read in graph.data.items():
        learned = graph.call(var, "relax.nn.conv2d", "relax.matmul") is not None
        if not learned and all(source in raw for source in read):
            raw.add(var)
    return raw


def classifier_convolutions(graph: DataflowGraph) -> set[relax.Var]:
    """Return the convolutions whose channels are the network's outputs, one value each.

    SqueezeNet's last layer is one: a 1x1 convolution, then a global pool.
    """
    found: set[relax.Var] = set()
    for output in graph.outputs:
        var = output
        while graph.data[var] and convolution(graph.values[var]) is None:
            if len(graph.data[var]) != 1 or op_name(graph.values[var]) == "relax.matmul":
                break
            var = graph.data[var][0]
        call = convolution(graph.values.get(var))
        if call is not None and math.prod(shape_of(output)) == math.prod(shape_of(var)[:2]):
            found.add(var)
    return found


def rewrite_bindings(
    func: relax.Function,
    rewrite: Rewrite,
    replaced: Mapping[relax.Var, relax.Var] | None = None,
) -> relax.Function:
    """Return `func` with every binding emitted anew.

    Parameters
    ----------
    func : relax.Function
        The function to rewrite.
    rewrite : callable
        ``rewrite(builder, var, value)`` gives what to bind instead of `value`, which already
        reads the new variables; `var` is the old one.
    replaced : mapping, optional
        Parameters to exchange.
    """
    replaced = replaced or {}
    emitter = _Emitter(rewrite, replaced)
    body = emitter.visit_expr(func.body)
    params = [replaced.get(param, param) for param in func.params]
    return relax.Function(params, body, None, func.is_pure, func.attrs)


@mutator
class _Emitter(PyExprMutator):  # type: ignore[misc]
    def __init__(self, rewrite: Rewrite, replaced: Mapping[relax.Var, relax.Var]) -> None:
        super().__init__()
        self.rewrite, self.new = rewrite, dict(replaced)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Emit the rewritten binding under its old name."""
        # Not visit_expr: it would check shapes before the rewrite has had its turn.
        value = self.rewrite(self.builder_, binding.var, substituted(binding.value, self.new))
        inner = isinstance(binding.var, relax.DataflowVar)
        local = inner or not self.builder_.current_block_is_dataflow()
        emit = self.builder_.emit if local else self.builder_.emit_output
        self.new[binding.var] = emit(value, binding.var.name)
        self.set_var_remap(binding.var, self.new[binding.var])


def substituted(value: relax.Expr, new: Mapping[relax.Var, relax.Var]) -> relax.Expr:
    """Return `value`, the right side of a binding, reading other variables."""
    if isinstance(value, relax.Var):
        return new.get(value, value)
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(substituted(value.tuple_value, new), value.index)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([substituted(field, new) for field in value.fields])
    if isinstance(value, relax.Call):
        args = [substituted(arg, new) for arg in value.args]
        return relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
    return value
