# SPDX-License-Identifier: Apache-2.0
"""Link compiled stages to a shared library, with a system compiler or without one.

A C compiler of the machine is used where there is one for the target; otherwise the linker of the
PyPI package `ziglang`, which needs neither root nor a system package.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.runtime.processor import normal_machine

TIMEOUT = 120
"""Seconds that a linker may take."""

_EMULATIONS = {
    "x86_64": "elf_x86_64",
    "aarch64": "aarch64linux",
    "armv7l": "armelf_linux_eabi",
}
_COMPILERS = {"armv7l": "arm-linux-gnueabihf-gcc"}
"""What a compiler is called where it is not the machine's name and ``-linux-gnu-gcc``."""


def link_shared_library(executable: relax.VMExecutable, path: Path, machine: str) -> None:
    """Write `executable` to the shared library `path` for a `machine` such as ``aarch64``.

    Raises
    ------
    CompileError
        There is no linker for the machine, or it fails.
    """

    def link(output: str, objects: Sequence[str], **_: object) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        command = [*_linker(machine), "-shared", "-o", output, *files]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            cause = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise CompileError(
                f"{path.name}: {command[0]} can't link it for {machine}: {' '.join(cause)}"
            ) from error

    link.output_format = "so"  # type: ignore[attr-defined]  # what export_library asks for
    executable.export_library(str(path), fcompile=link, workspace_dir=None)


def _linker(machine: str) -> list[str]:
    names = [_COMPILERS.get(machine, f"{machine}-linux-gnu-gcc")]
    if machine == normal_machine(platform.machine()):
        names = ["cc", "gcc", "clang", *names]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found:
        return [found, "-fPIC"]
    if importlib.util.find_spec("ziglang") and machine in _EMULATIONS:
        return [sys.executable, "-m", "ziglang", "ld.lld", "-m", _EMULATIONS[machine]]
    raise CompileError(
        f"no linker for {machine}: neither {', '.join(names)} nor the package ziglang is here. "
        'Run: pip install "decnn-tvm[compiler]"'
    )
