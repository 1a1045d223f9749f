# SPDX-License-Identifier: Apache-2.0
"""Read ONNX models and bring them into the form that the importer takes.

Static input shapes, plain forms of operators and weights (see `onnx_forms`), and no arithmetic on
constants: where a graph has any, ONNX Runtime's basic optimisation folds it, with the fusions that
would swallow batch norms switched off. Other weights keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.onnx_forms import drop_unread, opset_of, plain_weights, upgraded

OLDEST_OPSET = 9
_DTYPES = {
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
}
_SHAPE_OPERATORS = {"Shape", "Size", "ConstantOfShape", "Range"}
_FUSIONS = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
_Shapes = Mapping[str, tuple[int, ...]]


def read_model(source: str | Path | onnx.ModelProto | Any) -> onnx.ModelProto:
    """Return the model at a path, or a copy of one in memory, checked to be usable ONNX."""
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        where = f"ONNX model {model.graph.name!r}"
    elif isinstance(source, (str, Path)):
        model, where = _read_file(Path(source)), str(source)
    else:
        raise ModelError(
            f"can't load a {type(source).__name__}: expected the path of an ONNX file, an "
            "onnx.ModelProto or a torch.export.ExportedProgram"
        )
    _check_opset(model, where)
    _check_dtypes(model, where)
    return model


def prepared(model: onnx.ModelProto, *, batch: int, shapes: _Shapes) -> onnx.ModelProto:
    """Return `model` with static inputs and folded constants; it is changed in place."""
    plain_weights(model)
    drop_unread(model)
    _set_input_shapes(model.graph, batch, shapes)
    model = upgraded(model)
    if _has_constant_arithmetic(model.graph):
        model = _folded(model)
        plain_weights(model)
    _rename_prefixed_weights(model.graph)
    return model


def _read_file(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected an ONNX model")
    try:
        # By itself onnx takes the format from the ending of the name.
        model = onnx.load(str(path), format="protobuf")
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is not a readable ONNX model: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX model, or one without operators")
    return model


def _check_opset(model: onnx.ModelProto, where: str) -> None:
    version = opset_of(model)
    if not version:
        raise ModelError(f"{where} names no version of the ONNX operator set; it is damaged")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{where} has opset {version}; supported are {OLDEST_OPSET} to {newest}; export it "
            "again, or convert it with onnx.version_converter"
        )
    foreign = {n.domain for n in model.graph.node if n.domain not in ("", "ai.onnx")}
    if foreign:
        operators = sorted({n.op_type for n in model.graph.node if n.domain in foreign})
        raise ModelError(
            f"{where} uses operators outside ONNX: {', '.join(operators)} of {sorted(foreign)}; "
            "export it without them"
        )


def _check_dtypes(model: onnx.ModelProto, where: str) -> None:
    used = [(t.name, t.data_type) for t in model.graph.initializer]
    used += [(v.name, v.type.tensor_type.elem_type) for v in model.graph.input]
    for name, dtype in used:
        if dtype not in _DTYPES:
            raise ModelError(
                f"{where}: {name!r} is {TensorProto.DataType.Name(dtype).lower()}; weights and "
                "inputs must be float32 (or integers); convert the model"
            )


def _set_input_shapes(graph: onnx.GraphProto, batch: int, shapes: _Shapes) -> None:
    names = [value.name for value in graph.input]
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        raise ModelError(f"shapes name {unknown}, but the inputs are {names}")
    for value in graph.input:
        tensor = value.type.tensor_type
        shape = shapes.get(value.name)
        if not tensor.HasField("shape") and shape is None:
            raise ModelError(
                f"input {value.name!r} has no fixed rank; give its shape: "
                f"load(..., shapes={{{value.name!r}: (1, 3, 224, 224)}})"
            )
        if shape is None:
            shape = _static_shape(value, batch)
        elif tensor.HasField("shape"):
            _check_fits(value, shape)
        del tensor.shape.dim[:]
        for extent in shape:
            tensor.shape.dim.add().dim_value = extent
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _static_shape(value: onnx.ValueInfoProto, batch: int) -> tuple[int, ...]:
    extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if extents and extents[0] < 1:
        extents[0] = batch
    if any(extent < 1 for extent in extents):
        dims = value.type.tensor_type.shape.dim
        named = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise ModelError(
            f"input {value.name!r} has the dynamic shape {named}; give its shape: "
            f"load(..., shapes={{{value.name!r}: (1, 3, 224, 224)}})"
        )
    return tuple(extents)


def _check_fits(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    fits = len(dims) == len(shape) and all(
        dim.dim_value in (0, -1, extent) for dim, extent in zip(dims, shape, strict=True)
    )
    if not fits:
        named = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise ModelError(f"input {value.name!r} has shape {named}, which {list(shape)} doesn't fit")


def _has_constant_arithmetic(graph: onnx.GraphProto) -> bool:
    constants = {tensor.name for tensor in graph.initializer}
    return any(
        node.op_type in _SHAPE_OPERATORS
        or (node.op_type != "Identity" and all(name in constants for name in node.input if name))
        for node in graph.node
    )


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    import tempfile

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_FUSIONS,
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelError(f"ONNX Runtime refuses the model: {error}") from error
        return onnx.load(options.optimized_model_filepath)


def _rename_prefixed_weights(graph: onnx.GraphProto) -> None:
    """Drop PyTorch's ``onnx::`` before weights without a name, as TVM's importer does."""
    taken = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    for tensor in graph.initializer:
        short = tensor.name.removeprefix("onnx::")
        if short != tensor.name and short in taken:
            short = f"{short}_weight"
        if short != tensor.name and short not in taken:
            taken.add(short)
            _rename(graph, tensor.name, short)
            tensor.name = short


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
