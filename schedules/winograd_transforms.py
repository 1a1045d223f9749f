# SPDX-License-Identifier: Apache-2.0
"""The transformations of Winograd's convolution F(4 x 4, 3 x 3), and those of its weights.

The points of interpolation decide the error. 0, +-1/sqrt(2), +-sqrt(2) and infinity, pairs of
opposites and reciprocals, give 1.5e-6 of the largest magnitude where the usual 0, +-1, +-2 give
6.6e-6 and the direct method 1e-6 (256 channels; on the choice of points see Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", ACM
Transactions on Mathematical Software 46, 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

Matrix: TypeAlias = npt.NDArray[np.float64]

OUT = 4
"""Output pixels of a tile, in height and width."""
KERNEL = 3
IN = OUT + KERNEL - 1
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
"""Points of interpolation; infinity is the last."""


def _matrices() -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (4 x 6), G (6 x 3) and B^T (6 x 6) of the Cook-Toom construction."""
    polynomial = np.polynomial.polynomial.polyfromroots
    a_t, g, b_t = np.zeros((OUT, IN)), np.zeros((IN, KERNEL)), np.zeros((IN, IN))
    for k, point in enumerate(POINTS):
        others = [*POINTS[:k], *POINTS[k + 1 :]]
        a_t[:, k] = point ** np.arange(OUT)
        g[k] = point ** np.arange(KERNEL) / np.prod([point - other for other in others])
        b_t[k, :-1] = polynomial(others)
    a_t[-1, -1] = g[-1, -1] = 1
    b_t[-1] = polynomial(POINTS)
    return a_t, g, b_t.round(15)  # rounded, so that what cancels is 0 and costs nothing


A_T, G, B_T = _matrices()


def transform_weight(weight: te.Tensor) -> te.Tensor:
    """Return `weight` (O/o, I/i, 3, 3, i, o) as (O/o, 36, I/i, i, o): G g G^T."""
    blocks, chunks, _, _, *lanes = (int(extent) for extent in weight.shape)
    # Doubles, so that these sums add nothing to the error.
    table = np.einsum("ay,bx->abyx", G, G).reshape(IN * IN, KERNEL, KERNEL)

    def value(o: te.Var, point: te.Var, c: te.Var, i: te.Var, lane: te.Var) -> te.Expr:
        terms = [
            _pick(point, table[:, y, x], "float64") * weight[o, c, y, x, i, lane].astype("float64")
            for y in range(KERNEL)
            for x in range(KERNEL)
        ]
        return sum(terms[1:], terms[0]).astype("float32")

    return te.compute((blocks, IN * IN, chunks, *lanes), value, name="winograd_weight")


def combine(matrix: Matrix, row: te.Expr, element: Callable[[int], te.Expr]) -> te.Expr:
    """Return the sum of matrix[row, k] * element(k); zeros vanish where `row` is unrolled."""
    terms = [_pick(row, matrix[:, k], "float32") * element(k) for k in range(matrix.shape[1])]
    return sum(terms[1:], terms[0])


def _pick(index: te.Expr, values: Matrix, dtype: str) -> te.Expr:
    # Records know a kernel by its hash: no processor's last bit and no sign of a zero may be in it.
    exact = (values.round(12) + 0.0).astype("float32") if dtype == "float32" else values
    result = tirx.const(float(exact[-1]), dtype)
    for at in range(len(exact) - 2, -1, -1):
        result = tirx.Select(index == at, tirx.const(float(exact[at]), dtype), result)
    return result
