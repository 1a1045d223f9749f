# SPDX-License-Identifier: Apache-2.0
"""What keeps this machine from being a worker; every check stands alone and imports what it needs.

It runs on boards, where any library may be missing, so nothing is imported above but Python's own.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from decnn_tvm.doctor.findings import FAILURE, OK, WARNING, Finding, Verdict

MACHINES = ("x86_64", "aarch64")
"""For which TVM, NumPy and pyzmq have wheels."""
GLIBC = (2, 28)
LEAST_MEMORY = 256 << 20
LEAST_YEAR = 2024
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
CONNECT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker is to be started here; what is None or empty is not checked."""

    host: str = "127.0.0.1"
    port: int = 0
    keys: str | None = None
    insecure: bool = False
    memory: int | None = None
    tracker: str | None = None


def check_machine(options: WorkerOptions) -> list[Finding]:
    """Return what was found on this machine, in the order in which it matters."""
    return [
        Finding(subject="this machine", check=name, verdict=verdict, detail=detail, remedy=remedy)
        for name, check in _CHECKS.items()
        for verdict, detail, remedy in check(options)
    ]


Found = Iterator[tuple[Verdict, str, str]]


def _python(_: WorkerOptions) -> Found:
    bits = 8 * struct.calcsize("P")
    text = f"Python {platform.python_version()}, {bits} bits, in {sys.prefix}"
    if bits != 64:
        remedy = "Install a 64-bit system: there are no 32-bit wheels of TVM, NumPy and pyzmq."
        yield FAILURE, text, remedy
    else:
        yield OK, text, ""


def _machine(_: WorkerOptions) -> Found:
    machine, (libc, version) = platform.machine(), platform.libc_ver()
    text = f"{machine}, {os.cpu_count()} cores, {libc or 'another C library'} {version}".strip()
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if machine not in MACHINES:
        yield FAILURE, text, f"Use a machine of {' or '.join(MACHINES)}: only they have wheels."
    elif libc != "glibc" or known < GLIBC:
        remedy = "Install a system with glibc 2.28 or newer, such as Debian 10 or Ubuntu 20.04."
        yield FAILURE, text, remedy
    else:
        yield OK, text, ""


def _versions(_: WorkerOptions) -> Found:
    pins = [re.match(r"(apache-tvm(?:-ffi)?)==([^;\s]+)", r) for r in _requirements()]
    for pin in filter(None, pins):
        name, wanted = pin.groups()
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            there = "not installed"
        wrong = there != wanted
        remedy = f"Run: pip install {name}=={wanted}"
        yield FAILURE if wrong else OK, f"{name} {there}", remedy if wrong else ""


def _requirements() -> list[str]:
    return metadata.requires("decnn-tvm") or []


def _libraries(_: WorkerOptions) -> Found:
    start = time.monotonic()
    try:
        import decnn_tvm.runtime.worker  # noqa: F401
        from decnn_tvm.runtime.library import load_runtime

        load_runtime()
    except Exception as error:  # an ImportError of any library, or its loader's OSError
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        remedy = "Run: pip install --force-reinstall decnn-tvm"
        if "libstdc++" in str(error):
            remedy = "Install the C++ library; on Debian: apt install libstdc++6"
        yield FAILURE, (lines or [type(error).__name__])[-1], remedy
        return
    yield OK, f"a worker's libraries load in {time.monotonic() - start:.1f} s", ""


def _processor(_: WorkerOptions) -> Found:
    from decnn_tvm.runtime.processor import processor_features

    features = processor_features()
    vectors = [f for f in ("asimd", "asimddp", "sve", "avx2", "avx512f") if f in features]
    if not features:
        yield WARNING, "the system does not say what it can do", "Compile for a generic target."
    else:
        yield OK, f"vectors: {', '.join(vectors) or 'none of the known ones'}", ""
    if GOVERNOR.is_file() and (name := GOVERNOR.read_text().strip()) not in (
        "performance",
        "schedutil",
    ):
        yield (
            WARNING,
            f"frequency governor {name!r}: the clock follows late",
            "Run as root: echo performance | tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )


def _memory(options: WorkerOptions) -> Found:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    free, total = (int(sizes.get(key, 0)) << 10 for key in ("MemAvailable", "MemTotal"))
    wanted = options.memory or LEAST_MEMORY
    text = f"{free >> 20} MiB free of {total >> 20}, a worker is to have {wanted >> 20}"
    short = free < wanted
    remedy = "End other programs, or lower --memory and give this worker fewer channel groups."
    yield FAILURE if short else OK, text, remedy if short else ""


def _clock(_: WorkerOptions) -> Found:
    now = datetime.now(timezone.utc)
    wrong = now.year < LEAST_YEAR
    remedy = "Run as root: timedatectl set-ntp true. Keys work all the same; logs have wrong times."
    yield WARNING if wrong else OK, f"{now:%Y-%m-%d %H:%M} UTC", remedy if wrong else ""


def _keys(options: WorkerOptions) -> Found:
    from decnn_tvm.errors import InputError
    from decnn_tvm.runtime.credentials import Credentials
    from decnn_tvm.runtime.exposure import check_exposure

    try:
        if options.keys:
            trusted = Credentials.load(options.keys).trusted
            yield OK, f"{options.keys}, trusts {', '.join(path.stem for path in trusted)}", ""
        else:
            check_exposure(options.host, keys=False, insecure=options.insecure)
            yield OK, "none, and none needed", ""
    except InputError as error:
        detail, _, remedy = str(error).partition(". ")
        yield FAILURE, detail, remedy


def _address(options: WorkerOptions) -> Found:
    place = f"{options.host}:{options.port}"
    try:
        with socket.create_server((options.host, options.port)):
            yield OK, f"{place} is free", ""
    except OSError as error:
        yield (
            FAILURE,
            f"{place}: {error.strerror or error}",
            "Choose an address of this machine (`ip address`) and a port that is free; does a "
            "worker run here already?",
        )


def _tracker(options: WorkerOptions) -> Found:
    if not options.tracker:
        return
    host, _, port = options.tracker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
        yield OK, f"something listens at {options.tracker}", ""
    except (OSError, ValueError) as error:
        yield (
            FAILURE,
            f"nobody answers at {options.tracker} ({error})",
            "Start the tracker and the tunnel to it, as docs/BOARDS.md shows.",
        )


_CHECKS: dict[str, Callable[[WorkerOptions], Found]] = {
    "Python": _python,
    "machine": _machine,
    "versions": _versions,
    "libraries": _libraries,
    "processor": _processor,
    "memory": _memory,
    "clock": _clock,
    "keys": _keys,
    "address": _address,
    "tracker": _tracker,
}
