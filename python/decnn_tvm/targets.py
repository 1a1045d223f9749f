# SPDX-License-Identifier: Apache-2.0
"""Compilation targets by name, and what a machine needs to run their code.

A target is ``"host"``, a board (``"rpi4"``), a CPU tag of TVM (``"raspberry-pi/4b-aarch64"``), or a
dict in TVM's own form (``{"kind": "llvm", "mtriple": ..., "mcpu": ...}``).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.target import codegen

from decnn_tvm.board_targets import BOARDS
from decnn_tvm.errors import CompileError, last_line
from decnn_tvm.runtime.processor import normal_machine, processor_features

# LLVM's name of a vector feature -> the flag of /proc/cpuinfo. Code may use any of them unasked.
_X86_FLAGS = {
    "sse4.2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi2": "bmi2",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
}
_ARM_FLAGS = {
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "rcpc": "lrcpc",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}
_ARMV7_FLAGS = {"neon": "neon", "vfp4": "vfpv4"}
_FLAGS = {"x86_64": _X86_FLAGS, "aarch64": _ARM_FLAGS, "armv7l": _ARMV7_FLAGS}


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTarget:
    """A CPU to compile for.

    Attributes
    ----------
    name
        What the user wrote, or the JSON-like text of a dict.
    target
        TVM's target.
    machine
        The `platform.machine` of a device that runs the code.
    features
        Flags of ``/proc/cpuinfo`` that the device must have.
    """

    name: str
    target: tvm.target.Target
    machine: str
    features: tuple[str, ...]


def resolve_target(name: str | Mapping[str, Any], *, cores: int | None = None) -> CpuTarget:
    """Return the target called `name`.

    Parameters
    ----------
    name
        ``"host"``, a board, a CPU tag of TVM, or a dict of TVM's target options with kind ``llvm``.
    cores
        Cores that kernels are spread over; by default what the target says (a Raspberry Pi 4 has
        four), and one for the host.

    Raises
    ------
    CompileError
        If there is no such target, it is not a CPU of a kind that workers run on, LLVM does not
        know its processor, or its cores or vectors are no such number.
    """
    if cores is not None and not _is_count(cores):
        raise CompileError(f"cores is {cores!r}; expected a whole number, 1 or more")
    options = _host_options() if name == "host" else _known_options(name)
    try:
        target = tvm.target.Target(options)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise CompileError(
            f"target {name!r}: TVM can't make it: {last_line(error)}; expected 'host', one of "
            f"{', '.join(known_targets())}, or a dict such as "
            "{'kind': 'llvm', 'mtriple': 'aarch64-linux-gnu', 'mcpu': 'cortex-a72'}"
        ) from error
    machine = target_machine(target)
    _check(name, target, machine)
    if cores is not None:
        target = tvm.target.Target({**dict(target.export()), "num-cores": cores})
    present = codegen.llvm_get_cpu_features(target)
    features = tuple(flag for llvm, flag in _FLAGS[machine].items() if llvm in present)
    text = name if isinstance(name, str) else repr(dict(name))
    return CpuTarget(name=text, target=target, machine=machine, features=features)


def known_targets() -> list[str]:
    """Return the names that `resolve_target` takes besides dicts."""
    tags = [str(tag) for tag in tvm.target.list_tags()]
    return ["host", *BOARDS, *sorted(tag for tag in tags if _is_known(tvm.target.Target(tag)))]


def _is_known(target: tvm.target.Target) -> bool:
    return target.kind.name == "llvm" and target_machine(target) in _FLAGS


def missing_features(required: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `required` that this machine lacks."""
    present = processor_features()
    return tuple(flag for flag in required if flag not in present)


def _host_options() -> dict[str, Any]:
    """Describe this processor, without what its kind has and a hypervisor hides."""
    options = {
        "kind": "llvm",
        "mtriple": codegen.llvm_get_system_triple(),
        "mcpu": codegen.llvm_get_system_cpu(),
        "num-cores": 1,
    }
    present = codegen.llvm_get_cpu_features(tvm.target.Target(options))
    flags = processor_features()
    names = _FLAGS.get(normal_machine(platform.machine()), {})
    hidden = [llvm for llvm, flag in names.items() if llvm in present and flag not in flags]
    return {**options, "mattr": [f"-{llvm}" for llvm in hidden]} if flags and hidden else options


def _known_options(name: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if not isinstance(name, (str, Mapping)):
        raise CompileError(
            f"target {name!r} is a {type(name).__name__}; expected a name such as 'host', or a "
            "dict of TVM's target options"
        )
    if not isinstance(name, str):
        return dict(name)
    if name in BOARDS:
        return BOARDS[name]
    if name not in known_targets():
        raise CompileError(
            f"target {name!r} is unknown; expected one of {', '.join(known_targets())}, or a dict"
        )
    return name


def _check(name: str | Mapping[str, Any], target: tvm.target.Target, machine: str) -> None:
    if target.kind.name != "llvm":
        raise CompileError(
            f"target {name!r}: expected a CPU (kind 'llvm'), got kind {target.kind.name!r}"
        )
    if machine not in _FLAGS:  # LLVM crashes where it is asked about one that it does not know
        raise CompileError(
            f"target {name!r} is for {machine!r} machines; expected a triple (mtriple) of "
            f"{', '.join(_FLAGS)}, such as 'aarch64-linux-gnu'"
        )
    _check_numbers(name, target)
    cpu = target.attrs.get("mcpu")
    triple = target.attrs.get("mtriple") or codegen.llvm_get_system_triple()
    if cpu and not codegen.llvm_is_valid_cpu(cpu, triple):
        raise CompileError(
            f"target {name!r}: LLVM knows no {machine} processor {cpu!r}; "
            f"see {machine} names in `llc -march={machine} -mcpu=help`"
        )


def _check_numbers(name: str | Mapping[str, Any], target: tvm.target.Target) -> None:
    cores, width = (target.attrs.get(key) for key in ("num-cores", "vector-width"))
    if cores is not None and not _is_count(cores):
        raise CompileError(f"target {name!r}: num-cores is {cores}; expected 1 or more")
    if width is not None and not (_is_count(width) and width & (width - 1) == 0):
        raise CompileError(
            f"target {name!r}: vector-width is {width}; expected bits, a power of two such as 128"
        )


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def target_machine(target: tvm.target.Target) -> str:
    """Return the `platform.machine` of what runs code for `target`: of this one by default."""
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    return normal_machine(triple.split("-")[0])
