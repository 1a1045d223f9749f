# SPDX-License-Identifier: Apache-2.0
"""What schedules need to know of a target: vector registers and cores."""

from __future__ import annotations

import re
from functools import cache

import tvm
from tvm.target import codegen

# Narrower than any vector that is worth using.
MIN_LANES = 4
# Features of x86 processors, widest vectors first, and how many float32 values one holds.
_X86_LANES = {"avx512f": 16, "avx": 8}
_X86 = re.compile(r"x86_64|amd64|i[3-6]86")


def vector_lanes(target: tvm.target.Target) -> int:
    """Return the number of float32 values in a vector register of `target`.

    A ``vector-width`` (in bits) of the target is taken as it is.
    """
    options = target.attrs
    features = [str(feature) for feature in options.get("mattr") or ()]
    return _lanes(
        str(options.get("mtriple") or codegen.llvm_get_system_triple()),
        str(options.get("mcpu") or ""),
        ",".join(features),
        int(options.get("vector-width") or 0),
    )


@cache
def _lanes(triple: str, cpu: str, features: str, width: int) -> int:
    options: dict[str, object] = {"kind": "llvm", "mtriple": triple}
    options |= {"mcpu": cpu} if cpu else {}
    options |= {"mattr": features.split(",")} if features else {}
    target = tvm.target.Target(options)
    if not width and _X86.match(triple):
        # TVM gives 512 bits for every x86 processor, with AVX-512 or without.
        present = codegen.llvm_get_cpu_features(target)
        return next((lanes for name, lanes in _X86_LANES.items() if name in present), MIN_LANES)
    return max(MIN_LANES, (width or int(codegen.llvm_get_vector_width(target))) // 32)


def vector_registers(target: tvm.target.Target) -> int:
    """Return the number of vector registers of `target` for sums and weights.

    AVX-512, AArch64 and RISC-V have 32, AVX2, SSE and 32-bit Arm 16, and 32-bit x86 8. One is left
    out for the value that is broadcast, save with AVX-512, whose multiply-add broadcasts straight
    from memory.
    """
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    if triple.startswith("i"):
        return 7
    if vector_lanes(target) >= 16:
        return 32
    return 31 if triple.startswith(("aarch64", "arm64", "riscv")) else 15


def round_lanes(size: int, lanes: int) -> int:
    """Return `size` rounded up to whole vectors of `lanes`, or to a power of two below one."""
    if size >= lanes:
        return -(-size // lanes) * lanes
    return 1 << (size - 1).bit_length()


def core_count(target: tvm.target.Target) -> int:
    """Return the number of cores that code for `target` is spread over."""
    return int(target.attrs.get("num-cores", 1) or 1)
