# SPDX-License-Identifier: Apache-2.0
"""Bring old and roundabout forms of ONNX into the ones that the importer takes.

Weights as initializers, not as Constant nodes or inputs with defaults; no optional inputs without
elements and no optional outputs that nobody reads; operators whose older forms TVM misreads
converted to a newer opset.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from decnn_tvm.errors import ModelError

_OLD_FORMS = {"Resize": 11, "Slice": 13, "Upsample": 13}
"""Operator -> the first opset whose form TVM reads."""
_UPGRADE = 13
# The first IR version that takes initializers which are no inputs.
_FREE_INITIALIZERS = 4


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators in `model`, 0 if it names none."""
    versions = (e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    return int(next(versions, 0))


def plain_weights(model: onnx.ModelProto) -> None:
    """Turn Constant nodes and inputs with defaults into initializers alone."""
    _inline_constants(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)


def drop_unread(model: onnx.ModelProto) -> None:
    """Drop optional outputs that nobody reads, and optional inputs without elements of Resize."""
    opset = opset_of(model)
    read = {output.name for output in model.graph.output} | set(_names_read(model.graph))
    empty = {t.name for t in model.graph.initializer if 0 in t.dims}
    for node in model.graph.node:
        least = max(1, _optional_from(node, opset))
        while len(node.output) > least and node.output[-1] not in read:
            del node.output[-1]
        if node.op_type == "Resize":
            node.input[1:] = ["" if name in empty else name for name in node.input[1:]]


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model with operators that TVM reads only in the form of a later opset."""
    version = opset_of(model)
    old = [n for n in model.graph.node if version < _OLD_FORMS.get(n.op_type, 0)]
    if not old:
        return model
    try:
        result = onnx.version_converter.convert_version(model, _UPGRADE)
    except Exception as error:  # the converter's own error is a bare RuntimeError
        raise ModelError(
            f"can't convert {model.graph.name!r} from opset {version} to {_UPGRADE}: {error}; "
            "export it again with a newer opset"
        ) from error
    if version < _OLD_FORMS["Resize"]:
        _keep_old_coordinates(result.graph)
    return result


def _keep_old_coordinates(graph: onnx.GraphProto) -> None:
    """Say in today's attributes how Resize and Upsample worked before there were any.

    As in ONNX Runtime, nearest values were those before when growing, and those behind when
    shrinking.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        scales = (
            numpy_helper.to_array(weights[node.input[2]])
            if node.input[2] in weights
            else np.ones(1)
        )
        shrinks, grows = bool(np.any(scales < 1)), bool(np.any(scales > 1))
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if shrinks and grows and settings.get("mode", b"nearest") == b"nearest":
            raise ModelError(
                f"Resize by {scales.tolist()}, which shrinks and grows at once, before opset 11; "
                "export the model again with a newer opset"
            )
        settings["coordinate_transformation_mode"] = "asymmetric"
        settings["nearest_mode"] = "ceil" if shrinks else "floor"
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in settings.items())


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
    if not node.attribute:
        raise ModelError(
            f"Constant {node.output[0]!r} has no value; the model is damaged: export it again"
        )
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


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that nodes read, those in branches and loops too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from (output.name for output in inner.output)
                yield from _names_read(inner)


def _optional_from(node: onnx.NodeProto, opset: int) -> int:
    """Return the position of the first output that `node` may lack."""
    try:
        outputs = onnx.defs.get_schema(node.op_type, opset).outputs
    except onnx.defs.SchemaError:  # an operator that ONNX does not know is refused later
        return len(node.output)
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return next((at for at, one in enumerate(outputs) if one.option == optional), len(node.output))
