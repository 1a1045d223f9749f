# SPDX-License-Identifier: Apache-2.0
"""Read ONNX models and bring them into the form that the importer takes.

Static input shapes, weights as initializers (not as Constant nodes or inputs with defaults), and
no arithmetic on constants: where a graph has any, ONNX Runtime's basic optimisation folds it, with
the fusions that would swallow batch norms switched off. Other weights keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from decnn_tvm.errors import ModelError

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
_OLD_FORMS = {"Slice", "Upsample"}
_UPGRADE = 13
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
    _inline_constants(model.graph)
    _strip_weight_inputs(model.graph)
    _set_input_shapes(model.graph, batch, shapes)
    if any(node.op_type in _OLD_FORMS for node in model.graph.node):
        model = _upgraded(model)
    if _has_constant_arithmetic(model.graph):
        model = _folded(model)
        _inline_constants(model.graph)
        _strip_weight_inputs(model.graph)
    _rename_prefixed_weights(model.graph)
    return model


def _read_file(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected an ONNX model")
    try:
        model = onnx.load(str(path))
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is not a readable ONNX model: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX model, or one without operators")
    return model


def _check_opset(model: onnx.ModelProto, where: str) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError(f"{where} names no version of the ONNX operator set; it is damaged")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise ModelError(
            f"{where} has opset {versions[0]}; supported are {OLDEST_OPSET} to {newest}; export it "
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


def _inline_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    for node in constants:
        value = _constant_value(node)
        if value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
            graph.node.remove(node)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        value: onnx.TensorProto = attribute.t
        return value
    dtypes = {"value_float": "float32", "value_floats": "float32"}
    dtypes |= {"value_int": "int64", "value_ints": "int64"}
    if attribute.name not in dtypes:
        return None
    numbers = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.from_array(np.asarray(numbers, dtypes[attribute.name]))


def _strip_weight_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer is listed among the inputs too."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)


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


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model whose operators TVM reads only in the form that a later opset gave them."""
    version = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    if version >= _UPGRADE:
        return model
    try:
        return onnx.version_converter.convert_version(model, _UPGRADE)
    except Exception as error:  # the converter's own error is a bare RuntimeError
        raise ModelError(
            f"can't convert {model.graph.name!r} from opset {version} to {_UPGRADE}: {error}; "
            "export it again with a newer opset"
        ) from error


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
