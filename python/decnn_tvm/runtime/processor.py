# SPDX-License-Identifier: Apache-2.0
"""What the processor of this machine can do, in the words of ``/proc/cpuinfo``.

On AArch64 the kernel's own answer to a process is taken (the hardware capabilities of its
auxiliary vector): it says what this process may execute, also where ``/proc/cpuinfo`` shows another
machine's processor, as under an emulator.
"""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

_AT_HWCAP, _AT_HWCAP2 = 16, 26
# Bits of the kernel's interface, by their names in /proc/cpuinfo.
_HWCAP = {
    "fp": 0,
    "asimd": 1,
    "aes": 3,
    "pmull": 4,
    "sha1": 5,
    "sha2": 6,
    "crc32": 7,
    "atomics": 8,
    "fphp": 9,
    "asimdhp": 10,
    "asimdrdm": 12,
    "jscvt": 13,
    "fcma": 14,
    "lrcpc": 15,
    "asimddp": 20,
    "sve": 22,
    "asimdfhm": 23,
}
_HWCAP2 = {"sve2": 1, "i8mm": 13, "bf16": 14}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINES |= dict.fromkeys(("arm", "armv7", "armv7a", "armv8l"), "armv7l")


def normal_machine(name: str) -> str:
    """Return the name of a machine as Linux gives it, of a system's name or a triple's start."""
    return _MACHINES.get(name.lower(), name)


def processor_features() -> tuple[str, ...]:
    """Return the features of this processor; none where the system does not say."""
    if normal_machine(platform.machine()) == "aarch64":
        return hardware_capabilities(_auxiliary(_AT_HWCAP), _auxiliary(_AT_HWCAP2))
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return tuple(found.group(1).split()) if found else ()


def hardware_capabilities(first: int, second: int) -> tuple[str, ...]:
    """Return the features that AArch64's words ``AT_HWCAP`` and ``AT_HWCAP2`` stand for."""
    words = ((_HWCAP, first), (_HWCAP2, second))
    return tuple(name for bits, word in words for name, bit in bits.items() if word >> bit & 1)


def _auxiliary(kind: int) -> int:
    ask = ctypes.CDLL(None).getauxval
    ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
    return int(ask(kind))
