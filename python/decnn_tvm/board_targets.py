# SPDX-License-Identifier: Apache-2.0
"""Boards by the names that people use: what TVM is told to compile for.

The processor decides which instructions and which order of them LLVM takes. All of these run a
64-bit system but ``generic-armv7``, for which libraries are built and no worker can be installed.
"""

from __future__ import annotations

from typing import Any


def _aarch64(processor: str, cores: int) -> dict[str, Any]:
    return {
        "kind": "llvm",
        "device": "arm_cpu",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": processor,
        "mattr": ["+neon"],
        "num-cores": cores,
    }


BOARDS: dict[str, dict[str, Any]] = {
    "rpi3": _aarch64("cortex-a53", 4),
    "rpi4": _aarch64("cortex-a72", 4),
    "rpi5": _aarch64("cortex-a76", 4),
    "jetson-nano": _aarch64("cortex-a57", 4),
    "jetson-orin": _aarch64("cortex-a78ae", 6),
    "generic-aarch64": _aarch64("generic", 4),
    "generic-armv7": {
        **_aarch64("generic", 4),
        "mtriple": "armv7l-linux-gnueabihf",
        "mattr": ["+neon", "+vfp4"],
    },
}
"""Name -> target. Orins have 6 to 12 cores: `--cores` says how many there are."""
