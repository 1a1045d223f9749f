# SPDX-License-Identifier: Apache-2.0
"""Libraries for other machines, linked without their compilers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.linking import link_shared_library
from decnn_tvm.targets import resolve_target

MACHINES = {"x86_64": 62, "aarch64": 183, "armv7l": 40}
"""Machine -> what its ELF files say."""


def executable(name: str) -> tuple[relax.VMExecutable, str]:
    """Return a compiled addition, and the machine it is for."""
    target = resolve_target(name)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.add(x, x)))
    return tvm.compile(builder.get(), target=target.target), target.machine


@pytest.mark.parametrize("name", ["host", "rpi4", "jetson-orin", "generic-armv7"])
def test_a_library_is_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name != "host":
        monkeypatch.setenv("PATH", str(tmp_path))  # no compiler here
    built, machine = executable(name)
    link_shared_library(built, tmp_path / "lib.so", machine)
    header = (tmp_path / "lib.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and struct.unpack("<H", header[18:20])[0] == MACHINES[machine]


def test_a_machine_without_a_linker(tmp_path: Path) -> None:
    built, _ = executable("host")
    with pytest.raises(CompileError, match=r"no linker for vax: neither vax-linux-gnu-gcc"):
        link_shared_library(built, tmp_path / "lib.so", "vax")
