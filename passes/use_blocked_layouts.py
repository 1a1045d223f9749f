# SPDX-License-Identifier: Apache-2.0
"""Compute feature maps as NCHW{b}c and weights as OIHW{i}i{o}o.

::

    y = conv2d(x, w)                              y5 = conv2d(x5, w6)   NCHW16c, OIHW16i16o
    z = relu(add(y, bias))            =>          z5 = relu(add(y5, bias5))
    out = max_pool2d(z)                           out5 = max_pool2d(z5)

with ``x5 = x.reshape(N, C/b, b, H, W).transpose(0, 1, 3, 4, 2)`` and so on. `choose_blocks` says
which block a feature map has. A tensor is converted only where a consumer needs the other layout,
and once per layout. What is done to weights depends on weights alone, so that `LiftTransformParams`
moves it out of the function afterwards.

With the function attributes ``decnn.input_blocks`` and ``decnn.output_blocks`` (one integer
per data input and per output), an input or output with a block b > 1 is passed as
(N, C/b, H, W, b): the signature of the function changes, and the attributes are removed.

Exact: no arithmetic changes. Functions that aren't one dataflow block stay as they are. TVM's own
`ConvertLayout` decides per convolution and knows neither boundaries nor residual classes, which is
why this pass stands beside it. `LegalizeOps` needs `decnn_tvm.schedules.legalize` after it.
"""

from __future__ import annotations

import logging
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.errors import CompileError
from decnn_tvm.passes.channel_blocks import (
    POOLING,
    REDUCTIONS,
    choose_blocks,
    is_depthwise,
    is_feature_map,
    is_plain_convolution,
    is_spatial_reduction,
    keeps_channels,
)
from decnn_tvm.passes.layout_changes import block_channels, block_weight, restore_channels
from decnn_tvm.passes.weights import static_shape

INPUT_BLOCKS = "decnn.input_blocks"
OUTPUT_BLOCKS = "decnn.output_blocks"

_POOLING_ATTRIBUTES = (
    "pool_size",
    "strides",
    "padding",
    "dilation",
    "ceil_mode",
    "count_include_pad",
    "output_size",
)

logger = logging.getLogger(__name__)


@tvm.transform.module_pass(opt_level=0, name="decnn.UseBlockedLayouts")
class UseBlockedLayouts:
    """Compute feature maps and weights in blocked layouts."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod`."""
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                result.update_func(var, _rewrite(var.name_hint, func))
        return result


def _rewrite(name: str, func: relax.Function) -> relax.Function:
    blocks = list(func.body.blocks)
    # Without a block the function returns its inputs: channels that were only renamed.
    if len(blocks) > 1 or not all(isinstance(block, relax.DataflowBlock) for block in blocks):
        if any(_attribute(func, key) for key in (INPUT_BLOCKS, OUTPUT_BLOCKS)):
            raise CompileError(f"function {name!r}: expected one dataflow block, got {len(blocks)}")
        logger.debug("%s is not one dataflow block; its layouts stay", name)
        return func
    return _Rewriter(name, func).run()


def _attribute(func: relax.Function, key: str) -> list[int]:
    values = func.attrs[key] if func.attrs is not None and key in func.attrs else []
    return [int(value) for value in values]


@mutator
class _Rewriter(PyExprMutator):  # type: ignore[misc]
    """Rewrites one function; remembers every layout in which a variable is at hand."""

    def __init__(self, name: str, func: relax.Function) -> None:
        super().__init__()
        self.name, self.func = name, func
        self.bindings = [binding for block in func.body.blocks for binding in block.bindings]
        self.values = {binding.var: binding.value for binding in self.bindings}
        self.forms: dict[relax.Var, dict[int, relax.Expr]] = {}
        self.blocks: dict[relax.Var, int] = {}

    def run(self) -> relax.Function:
        """Return the rewritten function."""
        func, builder = self.func, self.builder_
        count = int(func.attrs["num_input"]) if _has(func, "num_input") else len(func.params)
        inputs = self._boundary(INPUT_BLOCKS, list(func.params)[:count])
        outputs = self._boundary(OUTPUT_BLOCKS, self._results())
        asked = {var: block for var, block in [*inputs, *outputs] if block > 1}
        self.blocks = choose_blocks(self.bindings, asked)
        params = [self._param(var, block) for var, block in inputs]
        params += [self._param(var, 1) for var in list(func.params)[count:]]
        attrs = {key: func.attrs[key] for key in _keys(func) - {INPUT_BLOCKS, OUTPUT_BLOCKS}}
        with builder.function(self.name, params, attrs=attrs):
            with builder.dataflow():
                for binding in self.bindings:
                    self._bind(binding.var, binding.value)
                results = [self.read(var, block) for var, block in outputs]
                is_tuple = isinstance(func.ret_ty, relax.TupleType)
                out = builder.emit_output(relax.Tuple(results) if is_tuple else results[0])
            builder.emit_func_output(out)
        return builder.get()[self.name]

    def read(self, var: relax.Var, block: int) -> relax.Expr:
        """Return `var` in the layout NCHW{block}c, or plain if `block` is 1."""
        forms = self.forms[var]
        if block not in forms:
            if 1 not in forms:
                forms[1] = self._emit(restore_channels(next(iter(forms.values()))))
            if block != 1:
                forms[block] = self._emit(block_channels(forms[1], block))
        return forms[block]

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        """Read a variable in its plain layout."""
        return self.read(var, 1)

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        """Read a variable in its plain layout."""
        return self.read(var, 1)

    def _emit(self, value: relax.Expr) -> relax.Var:
        return self.builder_.emit(value)

    def _results(self) -> list[relax.Var]:
        """Return the variables that the function returns."""
        body = self.func.body.body
        if isinstance(self.func.ret_ty, relax.TupleType):
            while isinstance(body, relax.Var) and body in self.values:
                body = self.values[body]
            if not isinstance(body, relax.Tuple):
                raise CompileError(
                    f"function {self.name!r}: expected a tuple of tensors, got {body}"
                )
            return list(body.fields)
        return [body]

    def _boundary(self, key: str, variables: list[relax.Var]) -> list[tuple[relax.Var, int]]:
        blocks = _attribute(self.func, key) or [1] * len(variables)
        if len(blocks) != len(variables):
            raise CompileError(
                f"function {self.name!r}: {key} has {len(blocks)} entries, expected "
                f"{len(variables)}"
            )
        for var, block in zip(variables, blocks, strict=True):
            if block != 1 and (
                not is_feature_map(var) or block < 1 or static_shape(var)[1] % block
            ):
                raise CompileError(
                    f"function {self.name!r}: {key} asks for blocks of {block} channels of "
                    f"{var.name!r}, whose type is {var.ty}; expected a divisor of its channels"
                )
        return list(zip(variables, blocks, strict=True))

    def _param(self, var: relax.Var, block: int) -> relax.Var:
        shape = static_shape(var) if block > 1 else ()
        if block > 1:
            n, c, h, w = shape
            new = relax.Var(var.name, relax.TensorType((n, c // block, h, w, block), var.ty.dtype))
        else:
            new = relax.Var(var.name, var.ty)
        self.forms[var] = {block: new}
        return new

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        block = self.blocks.get(var, 1)
        rule = self._rule(value) if isinstance(value, relax.Call) else None
        if rule is not None and (block > 1 or is_plain_convolution(value)):
            self.forms[var] = {block: self._emit(rule(value, block))}
        elif isinstance(value, relax.Call) and self._reduces_to_matrix(value):
            self.forms[var] = {1: self._reduce_to_matrix(value)}
        elif isinstance(value, relax.Var):
            self.forms[var] = self.forms[value]
        else:
            self.forms[var] = {1: self._emit(self.visit_expr(value))}

    def _rule(self, call: relax.Call) -> Any:
        if is_plain_convolution(call):
            return self._convolution
        if not keeps_channels(call):
            return None
        if call.op.name in POOLING:
            return self._pooling
        return self._reduction if call.op.name in REDUCTIONS else self._elementwise

    def _convolution(self, call: relax.Call, out_block: int) -> relax.Expr:
        data, attrs = call.args[0], call.attrs
        in_block = self.blocks.get(data, 1) if isinstance(data, relax.Var) else 1
        weight_in = 1 if is_depthwise(call) else in_block
        weight = block_weight(self.visit_expr(call.args[1]), weight_in, out_block)
        return relax.op.nn.conv2d(
            self._operand(data, in_block),
            self._emit(weight),
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            data_layout=_layout(in_block, "NCHW", "c"),
            kernel_layout=_layout(weight_in, "OIHW", "i") + _layout(out_block, "", "o"),
            out_layout=_layout(out_block, "NCHW", "c"),
            out_dtype=attrs.out_dtype or None,
        )

    def _pooling(self, call: relax.Call, block: int) -> relax.Expr:
        name = call.op.name.split(".")[-1]
        kept = {
            key: getattr(call.attrs, key) for key in _POOLING_ATTRIBUTES if hasattr(call.attrs, key)
        }
        layout = _layout(block, "NCHW", "c")
        data = self._operand(call.args[0], block)
        return getattr(relax.op.nn, name)(data, **kept, layout=layout, out_layout=layout)

    def _reduction(self, call: relax.Call, block: int) -> relax.Expr:
        operator = getattr(relax.op, call.op.name.split(".")[-1])
        axes = [int(axis) % 4 for axis in call.attrs.axis]
        return operator(self._operand(call.args[0], block), axes, keepdims=True)

    def _reduces_to_matrix(self, call: relax.Call) -> bool:
        """Tell whether `call` reduces a blocked feature map over H and W to (N, C)."""
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in REDUCTIONS:
            return False
        blocked = self.blocks.get(call.args[0], 1) > 1
        return blocked and is_spatial_reduction(call) and call.ty.ndim == 2

    def _reduce_to_matrix(self, call: relax.Call) -> relax.Expr:
        kept = self._emit(self._reduction(call, self.blocks[call.args[0]]))
        return self._emit(relax.op.reshape(kept, static_shape(call)))

    def _elementwise(self, call: relax.Call, block: int) -> relax.Expr:
        args = [
            relax.Tuple([self._operand(field, block) for field in arg.fields])
            if isinstance(arg, relax.Tuple)
            else self._operand(arg, block)
            for arg in call.args
        ]
        if call.op.name == "relax.concat":
            return relax.op.concat(args[0], axis=int(call.attrs.axis) % 4)
        return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)

    def _operand(self, arg: relax.Expr, block: int) -> relax.Expr:
        """Return the operand `arg` of a blocked operator, whatever broadcasts kept."""
        if not isinstance(arg.ty, relax.TensorType) or arg.ty.ndim == 0:
            return self.visit_expr(arg)
        if isinstance(arg, relax.Var) and is_feature_map(arg) and static_shape(arg)[1] % block == 0:
            return self.read(arg, block)
        if block == 1:
            return self.visit_expr(arg)
        n, c, h, w = (1,) * (4 - arg.ty.ndim) + static_shape(arg)
        inner = 1 if c == 1 else block
        value = self._emit(relax.op.reshape(self.visit_expr(arg), (n, c, h, w)))
        return self._emit(block_channels(value, inner, always=True))


def _layout(block: int, outer: str, letter: str) -> str:
    return outer if block == 1 else f"{outer}{block}{letter}"


def _keys(func: relax.Function) -> set[str]:
    return set() if func.attrs is None else {str(key) for key in func.attrs.keys()}


def _has(func: relax.Function, key: str) -> bool:
    return key in _keys(func)
