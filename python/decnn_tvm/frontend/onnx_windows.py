# SPDX-License-Identifier: Apache-2.0
"""Write the paddings that ONNX operators leave to be computed as plain ``pads``.

TVM pads for ``auto_pad`` by a loop nest of its own, in which no pass recognises a convolution's
padding, and ignores ``output_shape``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WINDOWS = {"Conv", "MaxPool", "AveragePool"}


def resolve_padding(op_name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Put ``pads`` in place of ``auto_pad`` and ``output_shape`` in the attributes of a node."""
    if op_name in _WINDOWS:
        _resolve_auto_pad(op_name, inputs, attrs)
    if op_name == "ConvTranspose" and "output_shape" in attrs:
        _resolve_output_shape(inputs, attrs)


def _resolve_auto_pad(op_name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> None:
    mode = _auto_pad(attrs)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return
    spatial = [int(extent) for extent in list(inputs[0].ty.shape)[2:]]
    ones = [1] * len(spatial)
    window = list(inputs[1].ty.shape)[2:] if op_name == "Conv" else attrs["kernel_shape"]
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    totals = []
    for size, kernel, stride, dilation in zip(spatial, window, strides, dilations, strict=True):
        reach = (-(-size // stride) - 1) * stride + (int(kernel) - 1) * dilation + 1
        totals.append(max(0, reach - size))
    del attrs["auto_pad"]
    attrs["pads"] = _halves(totals, more_behind=mode == "SAME_UPPER")


def _resolve_output_shape(inputs: Sequence[Any], attrs: dict[str, Any]) -> None:
    spatial = [int(extent) for extent in list(inputs[0].ty.shape)[2:]]
    ones, zeros = [1] * len(spatial), [0] * len(spatial)
    window = [int(extent) for extent in list(inputs[1].ty.shape)[2:]]
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    extra = attrs.get("output_padding", zeros)
    wanted = list(attrs.pop("output_shape"))[-len(spatial) :]
    totals, missing = [], []
    for at, size in enumerate(spatial):
        whole = strides[at] * (size - 1) + (window[at] - 1) * dilations[at] + 1 + extra[at]
        totals.append(max(0, whole - wanted[at]))
        missing.append(max(0, wanted[at] - whole))
    attrs["pads"] = _halves(totals, more_behind=_auto_pad(attrs) == "SAME_UPPER")
    attrs["output_padding"] = [a + b for a, b in zip(extra, missing, strict=True)]
    attrs["auto_pad"] = "NOTSET"


def _auto_pad(attrs: dict[str, Any]) -> str:
    mode = attrs.get("auto_pad", "NOTSET")
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _halves(totals: list[int], *, more_behind: bool) -> list[int]:
    """Return ``pads``: the halves of `totals` before and behind, odd ones more on one side."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if more_behind else [*large, *small]
