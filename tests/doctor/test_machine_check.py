# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
import socket
import struct
from pathlib import Path

import pytest

from decnn_tvm.doctor import machine_check
from decnn_tvm.doctor.machine_check import WorkerOptions, check_machine
from decnn_tvm.keys import make_keys


def failures(options: WorkerOptions) -> dict[str, str]:
    """Return check -> detail and remedy of what failed."""
    found = check_machine(options)
    return {f.check: f"{f.detail} -> {f.remedy}" for f in found if f.verdict == "failure"}


def test_this_machine_can_be_a_worker(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["pi"])
    assert failures(WorkerOptions(keys=str(tmp_path / "keys" / "pi"))) == {}


def test_what_the_options_ask_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = failures(
            WorkerOptions(
                port=port, keys=str(tmp_path), memory=1 << 60, tracker="127.0.0.1:nowhere"
            )
        )
    assert found.keys() == {"memory", "keys", "address", "tracker"}
    assert "does a worker run here already?" in found["address"]
    assert "Make keys with `decnn keys`" in found["keys"]
    assert "host '0.0.0.0'" in failures(WorkerOptions(host="0.0.0.0"))["keys"]
    assert failures(WorkerOptions(host="192.0.2.1", insecure=True)).keys() == {"address"}


def test_a_board_that_has_no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "armv7l")
    monkeypatch.setattr(struct, "calcsize", lambda _: 4)
    found = failures(WorkerOptions())
    assert "64-bit system" in found["Python"] and "x86_64 or aarch64" in found["machine"]


def test_an_old_system_and_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.27"))
    monkeypatch.setattr(machine_check, "_requirements", lambda: ["apache-tvm==0.1", "numpy>=1"])
    found = failures(WorkerOptions())
    assert "glibc 2.28 or newer" in found["machine"]
    assert "pip install apache-tvm==0.1" in found["versions"]


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("libstdc++.so.6: cannot open shared object file")

    monkeypatch.setattr("decnn_tvm.runtime.library.load_runtime", fail)
    assert "apt install libstdc++6" in failures(WorkerOptions())["libraries"]
