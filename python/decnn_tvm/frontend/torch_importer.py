# SPDX-License-Identifier: Apache-2.0
"""Import a program of ``torch.export``, its weights named as in the PyTorch module.

TVM names a parameter ``p_layer1_0_conv1_weight`` and turns the statistics of batch norms into
constants; both get the names of the state dict back: ``layer1.0.conv1.weight``,
``layer1.0.bn1.running_mean``. PyTorch itself is imported only when a program is given.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from decnn_tvm.errors import ModelError
from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    weight_values,
    weight_var,
    weight_vars,
    with_weights,
)

_STATISTICS = {3: "running_mean", 4: "running_var"}
# Operators that train or not, by an argument: its position.
_TRAINING = {
    "aten.batch_norm.default": 5,
    "aten.native_batch_norm.default": 5,
    "aten._native_batch_norm_legit.default": 5,
    "aten._native_batch_norm_legit_functional.default": 5,
    "aten.dropout.default": 2,
    "aten.dropout_.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.feature_dropout_.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.native_dropout.default": 2,
}


def is_program(source: Any) -> bool:
    """Tell whether `source` is a ``torch.export.ExportedProgram``, without importing PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.export.ExportedProgram)


def import_program(
    program: Any, *, batch: int, shapes: Mapping[str, tuple[int, ...]]
) -> tvm.IRModule:
    """Return the Relax module of an exported program, with static shapes.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Exported in eval mode.
    batch : int
        Size that dynamic first dimensions get.
    shapes : mapping from input name to shape
        Full shapes of inputs with other dynamic dimensions.
    """
    from tvm.relax.frontend.torch import from_exported_program

    _check_inference(program)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = from_exported_program(
                program, keep_params_as_input=True, unwrap_unit_return_tuple=True
            )
    except Exception as error:  # TVM raises whatever its converters trip over
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"can't import the exported program: {what[0]}") from error
    func = _static(module["main"], batch, shapes)
    if not all(map(_is_static, inputs_of(func))):
        types = [str(var.ty) for var in inputs_of(func)]
        raise ModelError(f"the inputs {types} have more dynamic dimensions; give shapes=")
    result = module.clone()
    result["main"] = _named(func, program)
    return result


def _check_inference(program: Any) -> None:
    """Refuse batch norms and dropouts in training mode, which TVM imports as if they were not."""
    for node in program.graph.nodes:
        position = _TRAINING.get(str(node.target), len(node.args))
        if position < len(node.args) and node.args[position] is True:
            raise ModelError(
                f"{node.name!r} of the exported program is in training mode; expected a network "
                "for inference: call model.eval() before torch.export.export"
            )


def _is_static(var: relax.Var) -> bool:
    return all(isinstance(extent, tvm.tirx.IntImm) for extent in var.ty.shape)


def _static(
    func: relax.Function, batch: int, shapes: Mapping[str, tuple[int, ...]]
) -> relax.Function:
    names = [var.name for var in inputs_of(func)]
    if unknown := sorted(set(shapes) - set(names)):
        raise ModelError(f"shapes name {unknown}, but the inputs are {names}")
    sizes: dict[Any, int] = {}
    for var in inputs_of(func):
        extents = list(var.ty.shape)
        wanted = shapes.get(var.name, (batch,))
        if var.name in shapes and len(wanted) != len(extents):
            raise ModelError(f"input {var.name!r} has rank {len(extents)}, not {len(wanted)}")
        for extent, size in zip(extents, wanted, strict=False):
            if not isinstance(extent, tvm.tirx.IntImm):
                sizes[extent] = size
            elif var.name in shapes and int(extent) != size:
                raise ModelError(f"input {var.name!r} was exported with {var.ty}, not {wanted}")
    for attr in ("tir_var_lower_bound", "tir_var_upper_bound"):
        func = func.without_attr(attr)
    return func.bind_symbolic_vars(sizes) if sizes else func


def _named(func: relax.Function, program: Any) -> relax.Function:
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values = weight_values(func)
    renamed = {
        var: weight_var(sources.get(var.name, var.name), values[var.name])
        for var in weight_vars(func)
    }
    namer = _StatisticsNamer(renamed, set(signature.inputs_to_buffers.values()))
    body = namer.visit_expr(func.body)
    weights = {renamed[var]: values[var.name] for var in weight_vars(func)} | namer.statistics
    func = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
    return with_weights(func, inputs_of(func), weights)


@mutator
class _StatisticsNamer(PyExprMutator):  # type: ignore[misc]
    def __init__(self, renamed: dict[relax.Var, relax.Var], buffers: set[str]) -> None:
        super().__init__()
        self.renamed = renamed
        self.buffers = buffers
        self.statistics: dict[relax.Var, Array] = {}

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        """Replace a weight by its renamed twin."""
        return self.renamed[var] if var in self.renamed else super().visit_var_(var)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Turn the constant statistics of a batch norm into named weights."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.nn.batch_norm":
            return call
        args = [self._statistic(call, i, arg) for i, arg in enumerate(call.args)]
        return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)

    def _statistic(self, call: relax.Call, position: int, arg: relax.Expr) -> relax.Expr:
        scale = call.args[1]
        if position not in _STATISTICS or not isinstance(arg, tvm.ir.GenericConst):
            return arg
        if not isinstance(scale, relax.Var):
            return arg
        name = f"{scale.name.rpartition('.')[0]}.{_STATISTICS[position]}"
        if name not in self.buffers or any(var.name == name for var in self.statistics):
            return arg
        value = arg.value.numpy()
        var = weight_var(name, value)
        self.statistics[var] = value
        return var
