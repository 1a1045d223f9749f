# SPDX-License-Identifier: Apache-2.0
"""Bands of a convolution, against PyTorch's convolution of the whole image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tvm import relax

from decnn_tvm.passes.row_windows import band_edges, output_edges, window_of
from tests.modules import drawn


@pytest.mark.parametrize(
    ("height", "bands", "expected"),
    [
        (56, 1, [0, 56]),
        (56, 2, [0, 28, 56]),
        (56, 4, [0, 14, 28, 42, 56]),
        (14, 4, [0, 4, 8, 10, 14]),
        (7, 2, [0, 4, 7]),
        (3, 4, [0, 2, 3]),
        (2, 4, [0, 2]),
        (1, 2, [0, 1]),
    ],
)
def test_edges_are_even_and_ascend(height, bands, expected):
    assert band_edges(height, bands) == expected


@pytest.mark.parametrize("height", [7, 12, 13])
@pytest.mark.parametrize(
    ("kernel", "stride", "top", "bottom", "dilation"),
    [
        *[(1, 1, 0, 0, 1), (1, 2, 0, 0, 1), (3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (3, 2, 0, 1, 1)],
        *[(5, 1, 2, 2, 1), (5, 3, 2, 0, 1), (3, 1, 2, 2, 2), (2, 2, 0, 0, 1), (7, 1, 6, 6, 1)],
    ],
)
def test_bands_are_rows_of_the_whole(height, kernel, stride, top, bottom, dilation):
    x, w = drawn(1, 2, height, 4), drawn(3, 2, kernel, 1)
    image, weight = (
        relax.Var(name, relax.TensorType(a.shape, "float32")) for name, a in (("x", x), ("w", w))
    )
    call = relax.op.nn.conv2d(
        image, weight, strides=(stride, 1), padding=(top, 0, bottom, 0), dilation=(dilation, 1)
    )
    call = relax.BlockBuilder().normalize(call)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (0, 0, top, bottom))
    options = {"stride": (stride, 1), "dilation": (dilation, 1)}
    whole = torch.conv2d(padded, torch.from_numpy(w), **options).numpy()
    for bands in (2, 3):
        edges = band_edges(height, bands)
        outputs = output_edges(call, edges)
        assert outputs == sorted(outputs) and outputs[-1] == whole.shape[2]
        for band, rows in enumerate(pairwise(outputs)):
            if rows[0] == rows[1]:
                continue
            window = window_of(call, rows, edges)
            first, last = window.rows
            assert 0 <= first < last <= height
            assert last <= edges[band + 1]
            part = torch.from_numpy(x[:, :, first:last])
            part = torch.nn.functional.pad(part, (0, 0, window.top, window.bottom))
            ours = torch.conv2d(part, torch.from_numpy(w), **options).numpy()
            assert ours.shape[2] == rows[1] - rows[0]
            np.testing.assert_allclose(ours, whole[:, :, rows[0] : rows[1]], rtol=1e-5, atol=1e-6)
