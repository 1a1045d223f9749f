# SPDX-License-Identifier: Apache-2.0
"""A network in its canonical form, with the names, shapes and dtypes of its inputs and outputs.

The module has one Relax function ``main``: one dataflow block, static shapes, convolutions in
NCHW with OIHW weights, the data inputs first and the named weights after them (see
`decnn_tvm.passes.weights`), batch norm separate. The function attribute ``decnn.outputs`` lists the
names of the outputs, and ``decnn.groups`` the channel groups of a decoupled network.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from decnn_tvm.errors import ModelError
from decnn_tvm.passes.weights import inputs_of

OUTPUTS_ATTR = "decnn.outputs"
GROUPS_ATTR = "decnn.groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Name, shape and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Network:
    """A named network.

    Parameters
    ----------
    name : str
        For people; also names files.
    module : IRModule
        In the canonical form; `decnn_tvm.frontend.load` makes it.
    """

    name: str
    module: tvm.IRModule

    def __post_init__(self) -> None:
        if not any(var.name_hint == "main" for var in self.module.get_global_vars()):
            raise ModelError(f"network {self.name!r} has no function 'main'; import it with load()")

    @property
    def function(self) -> relax.Function:
        """The Relax function ``main``."""
        return self.module["main"]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The data inputs, in order."""
        return tuple(_info(var.name, var.ty) for var in inputs_of(self.function))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs, in order."""
        result = self.function.ret_ty
        types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
        names = self._output_names(len(types))
        return tuple(_info(name, ty) for name, ty in zip(names, types, strict=True))

    @property
    def groups(self) -> int | None:
        """Channel groups of a decoupled network, None for a dense one."""
        attrs = self.function.attrs
        return int(attrs[GROUPS_ATTR]) if attrs is not None and GROUPS_ATTR in attrs else None

    def _output_names(self, count: int) -> list[str]:
        attrs = self.function.attrs
        if attrs is not None and OUTPUTS_ATTR in attrs and len(attrs[OUTPUTS_ATTR]) == count:
            return [str(name) for name in attrs[OUTPUTS_ATTR]]
        return ["output"] if count == 1 else [f"output{index}" for index in range(count)]


def _info(name: str, ty: relax.TensorType) -> TensorInfo:
    shape = tuple(int(extent) for extent in ty.shape)
    return TensorInfo(name=name, shape=shape, dtype=str(ty.dtype))
