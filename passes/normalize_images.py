# SPDX-License-Identifier: Apache-2.0
"""Let a network take pixels of 8 bits and normalise them itself.

``main(x: float32)`` becomes ``main(x: uint8)`` that begins with

    x' = x * 1 / (255 std) + -mean / std    ( = (x / 255 - mean) / std )

for each channel, and reads x' where it read x. So what travels is a quarter of the bytes, and a
convolution pads what was normalised, as it did before. Exact but for the rounding of float32.

Runs on a whole network, before placement. Batch norm and convolutions stay as they are: with zeros
padded around the image, a shift can't be folded into them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.passes.dataflow_graph import rewrite_bindings, substituted
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.weights import (
    Array,
    inputs_of,
    static_shape,
    unique_name,
    weight_values,
    weight_var,
    weight_vars,
    with_weights,
)


@tvm.transform.module_pass(opt_level=0, name="decnn.NormalizeImages")
class NormalizeImages:
    """Make the one input of ``main`` an image of uint8, or a batch of them.

    Parameters
    ----------
    mean, std : sequence of float
        For each channel, or one number for all; of pixels between 0 and 1.

    Raises
    ------
    CompileError
        The input is no float32 image of 1 or 3 channels, or the numbers do not fit its channels.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = np.asarray(mean, "float64"), np.asarray(std, "float64")
        finite = np.isfinite(self.mean).all() and np.isfinite(self.std).all()
        if not finite or not (self.std > 0).all():
            raise CompileError(
                f"image mean {list(mean)}, std {list(std)}: expected numbers, and std above 0."
            )
        if 1 != min(self.mean.size, self.std.size) != max(self.mean.size, self.std.size):
            raise CompileError(
                f"image mean {list(mean)}, std {list(std)}: expected as many numbers in both."
            )

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        result = LiftWeights()(mod)  # type: ignore[operator]
        result.update_func(result.get_global_var("main"), self._normalize(result["main"]))
        return result

    def _normalize(self, func: relax.Function) -> relax.Function:
        image, axis = _image_input(func)
        values = weight_values(func)
        weights = {var: values[var.name] for var in weight_vars(func)}
        factors = {"scale": 1 / (255 * self.std), "shift": -self.mean / self.std}
        for name, numbers in factors.items():
            value = _per_channel(numbers, image, axis)
            taken = {var.name for var in weights}
            weights[weight_var(unique_name(f"{image.name}.{name}", taken), value)] = value
        *_, scale, shift = weights
        pixels = relax.Var(image.name, relax.TensorType(static_shape(image), "uint8"))
        begun: list[relax.Var] = []

        def rewrite(builder: relax.BlockBuilder, _: relax.Var, value: relax.Expr) -> relax.Expr:
            if not begun:
                number = builder.emit(relax.op.astype(pixels, "float32"))
                number = builder.emit(relax.op.multiply(number, scale))
                begun.append(builder.emit(relax.op.add(number, shift)))
            return substituted(value, {pixels: begun[0]})

        return with_weights(rewrite_bindings(func, rewrite, {image: pixels}), [pixels], weights)


def _image_input(func: relax.Function) -> tuple[relax.Var, int]:
    """Return the input of `func` and the axis of its channels."""
    inputs = inputs_of(func)
    shape = static_shape(inputs[0]) if len(inputs) == 1 else ()
    if len(shape) == 4 and str(inputs[0].ty.dtype) == "float32":
        for axis in (1, 3):
            if shape[axis] in (1, 3):
                return inputs[0], axis
    found = ", ".join(f"{var.name!r} {var.ty.dtype}{static_shape(var)}" for var in inputs)
    raise CompileError(
        f"images of uint8: the network's inputs are {found}; expected one float32 image of 1 or 3 "
        "channels, as (N, C, H, W) or (N, H, W, C). Leave image_mean and image_std out."
    )


def _per_channel(numbers: Array, image: relax.Var, axis: int) -> Array:
    channels = static_shape(image)[axis]
    if numbers.shape not in ((1,), (channels,)):
        raise CompileError(
            f"image mean and std: {numbers.size} numbers for {image.name!r}, which has {channels} "
            f"channels; expected 1 or {channels}."
        )
    shape = [1] * 4
    shape[axis] = channels
    return np.broadcast_to(numbers, (channels,)).astype("float32").reshape(shape)
