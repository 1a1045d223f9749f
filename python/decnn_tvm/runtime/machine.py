# SPDX-License-Identifier: Apache-2.0
"""What this machine is, whether a package fits it, and how much memory this process takes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import PackageError
from decnn_tvm.manifest import Manifest
from decnn_tvm.package import versions
from decnn_tvm.runtime.processor import normal_machine, processor_features

KEPT_BLOCK = 32 << 20
"""Bytes of the largest block that `reuse_freed_memory` concerns: glibc's own limit."""
KEPT_USUALLY = 128 << 10
"""Bytes at the end of its memory that glibc keeps unless told otherwise."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A worker's machine: `platform.machine`, CPU features, installed versions."""

    machine: str
    features: tuple[str, ...]
    versions: dict[str, str]

    @staticmethod
    def from_json(data: dict[str, Any]) -> Machine:
        """Read what a worker says; raise `TypeError` or `KeyError` on anything else.

        What a later version says besides is left out: its number, which is compared then, tells
        more.
        """
        machine, features, versions = data["machine"], data["features"], data["versions"]
        if not (
            isinstance(machine, str)
            and isinstance(features, list)
            and isinstance(versions, dict)
            and all(isinstance(entry, str) for entry in [*features, *versions.values()])
        ):
            raise TypeError("no machine, features and versions")
        return Machine(machine=machine, features=tuple(features), versions=versions)


def this_machine() -> Machine:
    """Return what this machine is."""
    return Machine(
        machine=normal_machine(platform.machine()),
        features=processor_features(),
        versions=versions(),
    )


def choose_target(manifest: Manifest, machine: Machine, name: str, wanted: str | None) -> str:
    """Return the target of the package that fits a worker.

    Parameters
    ----------
    manifest : Manifest
        The package's.
    machine : Machine
        The worker's.
    name : str
        The worker, for messages.
    wanted : str, optional
        The target to use; by default the one that fits and asks for the most CPU features, the
        first of several.

    Raises
    ------
    PackageError
        Nothing fits, or the versions differ; names both sides and the remedy.
    """
    if machine.versions != manifest.versions:
        differing = [
            f"{key} {value} (worker: {machine.versions.get(key)})"
            for key, value in manifest.versions.items()
            if machine.versions.get(key) != value
        ]
        raise PackageError(
            f"{name}: the package was compiled with {', '.join(differing)}. Install the same "
            "versions on both sides, or compile the package again."
        )
    if wanted is not None and wanted not in manifest.targets:
        raise PackageError(
            f"the package is compiled for {sorted(manifest.targets)}, not for {wanted!r}. "
            "Compile it for that target too."
        )
    candidates = list(manifest.targets) if wanted is None else [wanted]
    misfits = {target: _misfit(manifest, target, machine) for target in candidates}
    if fitting := [target for target, misfit in misfits.items() if not misfit]:
        return max(fitting, key=lambda target: len(manifest.targets[target].features))
    reasons = "; ".join(f"target {target!r} needs {why}" for target, why in misfits.items())
    raise PackageError(
        f"{name} ({machine.machine}): no library of the package fits: {reasons}. "
        "Compile the package for this machine."
    )


def _misfit(manifest: Manifest, target: str, machine: Machine) -> str:
    libraries = manifest.targets[target]
    if libraries.machine != machine.machine:
        return f"a {libraries.machine} machine"
    lacking = [f for f in libraries.features if f not in machine.features]
    return f"CPU features {lacking} that it lacks" if lacking else ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: resident now, and the most since `reset_peak`."""

    resident: int
    peak: int


def memory() -> Memory:
    """Return this process's memory, from ``/proc/self/status``."""
    text = Path("/proc/self/status").read_text()
    sizes = {key: int(kib) << 10 for key, kib in re.findall(r"^(Vm\w+):\s+(\d+) kB", text, re.M)}
    return Memory(sizes["VmRSS"], sizes["VmHWM"])


def available() -> int:
    """Return the bytes that this machine can still give to processes."""
    text = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) << 10 if found else 1 << 62


def reset_peak() -> None:
    """Start a new peak where the kernel allows it (Linux with ``CONFIG_PROC_PAGE_MONITOR``)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def reuse_freed_memory() -> None:
    """Have the C library keep freed memory, where it can (glibc), until `trim`.

    Messages come and go by the megabyte. By default each takes new pages of the kernel, which it
    fills with zeros one by one: 3 % of a worker's time with ResNet-50.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK)
    _keep_at_most(2 * KEPT_BLOCK)


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Return to the system what is freed within, where `reuse_freed_memory` has it kept.

    `trim` alone leaves the end of what a thread other than the first has allocated: the weights of
    channel groups that were given back to another worker.
    """
    _keep_at_most(KEPT_USUALLY)
    try:
        yield
    finally:
        _keep_at_most(2 * KEPT_BLOCK)
        trim()


def _keep_at_most(size: int) -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, size)


def trim() -> None:
    """Return freed memory to the system, where the C library can (glibc)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
