# SPDX-License-Identifier: Apache-2.0
"""Load a network from an ONNX file, an ONNX model in memory or an exported PyTorch program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

import onnx
import tvm

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend.canonical import canonical
from decnn_tvm.frontend.onnx_importer import import_onnx
from decnn_tvm.frontend.onnx_reader import prepared, read_model
from decnn_tvm.frontend.torch_importer import import_program, is_program
from decnn_tvm.network import GROUPS_ATTR, OUTPUTS_ATTR, Network


def load(
    source: str | Path | onnx.ModelProto | Any,
    *,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    name: str | None = None,
) -> Network:
    """Import a network in the canonical form of `decnn_tvm.network`.

    Parameters
    ----------
    source : path, ModelProto or torch.export.ExportedProgram
        An ONNX model of opset 9 or newer with float32 weights, or an exported PyTorch program.
    batch : int
        Size that a dynamic first dimension of an input gets.
    shapes : mapping from input name to shape, optional
        Full shapes of inputs; needed where a dimension other than the first is dynamic.
    name : str, optional
        Name of the network; by default the file's, or the graph's.

    Raises
    ------
    ModelError
        If the source is missing, damaged, or holds something that isn't supported.
    """
    if not isinstance(batch, Integral) or batch < 1:
        raise ModelError(f"batch is {batch!r}: expected a whole number, 1 or more")
    fixed = {key: _checked_shape(key, shape) for key, shape in (shapes or {}).items()}
    if is_program(source):
        module = import_program(source, batch=batch, shapes=fixed)
        return Network(name or "network", canonical(module))
    model = read_model(source)
    if name is None:
        name = model.graph.name if isinstance(source, onnx.ModelProto) else Path(source).stem
    model = prepared(model, batch=batch, shapes=fixed)
    module = canonical(import_onnx(model))
    return Network(name or "network", _annotated(module, model))


def _checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        extents = tuple(index(extent) for extent in shape)
    except TypeError as error:
        raise ModelError(
            f"shape {shape!r} of input {name!r}: expected whole numbers, such as (1, 3, 224, 224)"
        ) from error
    if any(extent < 1 for extent in extents):
        raise ModelError(f"shape {list(shape)} of input {name!r}: every dimension must be >= 1")
    return extents


def _annotated(module: tvm.IRModule, model: onnx.ModelProto) -> tvm.IRModule:
    """Keep the names of the outputs, and the groups that `save_onnx` wrote."""
    func = module["main"].with_attr(OUTPUTS_ATTR, [output.name for output in model.graph.output])
    notes = {entry.key: entry.value for entry in model.metadata_props}
    if GROUPS_ATTR in notes:
        if not notes[GROUPS_ATTR].isdigit() or int(notes[GROUPS_ATTR]) < 1:
            raise ModelError(
                f"the model's metadata {GROUPS_ATTR} is {notes[GROUPS_ATTR]!r}: expected the "
                "number of channel groups; write it with save_onnx, or remove the entry"
            )
        func = func.with_attr(GROUPS_ATTR, int(notes[GROUPS_ATTR]))
    result = module.clone()
    result["main"] = func
    return result
