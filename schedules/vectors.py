# SPDX-License-Identifier: Apache-2.0
"""What schedules need to know of a target: vector registers and cores."""

from __future__ import annotations

import tvm
from tvm.target import codegen

# Narrower than any vector that is worth using.
MIN_LANES = 4


def vector_lanes(target: tvm.target.Target) -> int:
    """Return the number of float32 values in a vector register of `target`."""
    return max(MIN_LANES, int(codegen.llvm_get_vector_width(target)) // 32)


def vector_registers(target: tvm.target.Target) -> int:
    """Return the number of vector registers of `target` for sums and weights.

    AVX-512 and AArch64 have 32, AVX2 and SSE 16. One is left out for the value that is broadcast,
    save with AVX-512, whose multiply-add broadcasts straight from memory.
    """
    if vector_lanes(target) >= 16:
        return 32
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    return 31 if triple.startswith(("aarch64", "arm64")) else 15


def round_lanes(size: int, lanes: int) -> int:
    """Return `size` rounded up to whole vectors of `lanes`, or to a power of two below one."""
    if size >= lanes:
        return -(-size // lanes) * lanes
    return 1 << (size - 1).bit_length()


def core_count(target: tvm.target.Target) -> int:
    """Return the number of cores that code for `target` is spread over."""
    return int(target.attrs.get("num-cores", 1) or 1)
