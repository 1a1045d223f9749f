# SPDX-License-Identifier: Apache-2.0
"""Which input rows some output rows of a layer need, and where bands of rows are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from decnn_tvm.passes.weights import static_shape

EVEN = 2
"""Bands begin on multiples of this, so that layers of stride 2 read whole bands."""


@dataclass(frozen=True, slots=True)
class Window:
    """Input rows of a band of a convolution, and the zero rows still to be padded around them."""

    rows: tuple[int, int]
    top: int
    bottom: int

    def convolve(self, like: relax.Call, data: relax.Expr) -> relax.Call:
        """Return the convolution `like` on these rows alone."""
        attrs = like.attrs
        _, left, _, right = (int(value) for value in attrs.padding)
        return relax.op.nn.conv2d(
            data,
            like.args[1],
            strides=attrs.strides,
            padding=(self.top, left, self.bottom, right),
            dilation=attrs.dilation,
            groups=attrs.groups,
            out_dtype=attrs.out_dtype or None,
        )


def window_of(call: relax.Call, rows: tuple[int, int], edges: Sequence[int] = ()) -> Window:
    """Return what the output rows from ``rows[0]`` to before ``rows[1]`` of `call` need.

    Rows that a stride skips at the end are taken too where they reach to the end of the tensor, or
    to one of `edges`: what comes whole need not be cut.
    """
    height = static_shape(call.args[0])[2]
    stride, top, reach = row_geometry(call)
    first = rows[0] * stride - top
    last = (rows[1] - 1) * stride - top + reach + 1
    whole = (edge for edge in (*edges, height) if last <= edge < last + stride)
    last = min(whole, default=last)
    return Window((max(first, 0), min(last, height)), max(-first, 0), max(last - height, 0))


def band_edges(height: int, bands: int) -> list[int]:
    """Return where `bands` bands of about equal height begin and end, fewer if rows run short."""
    inner = {EVEN * round(band * height / bands / EVEN) for band in range(1, bands)}
    return [0, *sorted(edge for edge in inner if 0 < edge < height), height]


def output_edges(call: relax.Call, edges: Sequence[int]) -> list[int]:
    """Return for input bands the output bands that need nothing beyond the same input band."""
    stride, top, reach = row_geometry(call)
    height = static_shape(call)[2]
    inner = [(edge + top - reach - 1) // stride + 1 for edge in edges[1:-1]]
    return [0, *(min(max(edge, 0), height) for edge in inner), height]


def row_geometry(call: relax.Call) -> tuple[int, int, int]:
    """Return stride, padding above, and how many rows a window spans beyond its first.

    For a convolution or a pooling of NCHW data.
    """
    attrs = call.attrs
    is_convolution = hasattr(attrs, "kernel_layout")
    kernel = static_shape(call.args[1])[2] if is_convolution else int(attrs.pool_size[0])
    reach = int(attrs.dilation[0]) * (kernel - 1)
    return int(attrs.strides[0]), int(attrs.padding[0]), reach
