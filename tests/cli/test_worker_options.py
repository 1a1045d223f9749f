# SPDX-License-Identifier: Apache-2.0
"""What `decnn worker` does besides serving: checks and units."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]
TIMEOUT = 60


def test_the_check(command: Command) -> None:
    done = command("worker", "--check")
    assert done.status == 0 and "ok       libraries: " in done.out, done
    done = command("worker", "--check", "--host", "0.0.0.0")
    assert done.status == 1 and "FAILED   keys: " in done.out and "         -> Use" in done.out
    assert done.err == "decnn: this machine can't be that worker: keys\n"


def test_the_unit(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my keys").mkdir()
    options = ("--host", "192.0.2.1", "--port", 7000, "--threads", 4, "--memory", "1G")
    done = command("worker", "--unit", *options, "--keys", "my keys")
    assert done.status == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("ExecStart=")]
    python, *rest = shlex.split(line.removeprefix("ExecStart="))
    assert Path(python).is_file() and rest[:3] == ["-m", "decnn_tvm", "worker"]
    given = dict(zip(rest[3::2], rest[4::2], strict=True))
    assert given["--keys"] == str(tmp_path / "my keys") and given["--threads"] == "4"
    assert "MemoryMax=1342177280\n" in done.out
    if verify := shutil.which("systemd-analyze"):
        path = tmp_path / "decnn-worker.service"
        path.write_text(done.out)
        checked = subprocess.run([verify, "verify", path], capture_output=True, text=True)
        assert "decnn-worker" not in checked.stderr, checked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tuning", "nowhere", "--tuning-key", "pi"], "expected host:port"),
        (["--tuning", "127.0.0.1:9190"], "expected a key"),
        (
            ["--tuning", "127.0.0.1:9190", "--tuning-key", "pi", "--tuning-host", "0.0.0.0"],
            "asks nobody who he is",
        ),
    ],
)
def test_tuning_options(command: Command, arguments: list[str], words: str) -> None:
    done = command("worker", *arguments)
    assert (done.status, words in done.err, len(done.err.splitlines())) == (2, True, 1), done


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_port_that_is_taken(start: Start, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start("worker", "--host", host, "--port", port)
        out, err = worker.communicate(timeout=TIMEOUT)
    assert worker.returncode == 1 and not out
    assert err.startswith(f"decnn: can't listen on {host}, port {port} (")
    assert "already in use" in err and "Take another --port" in err and err.count("\n") == 1


def test_a_host_without_ipv4(start: Start) -> None:
    worker = start("worker", "--host", "::1")
    out, err = worker.communicate(timeout=TIMEOUT)
    assert worker.returncode == 1 and not out
    assert "Pass an IPv4 address of this machine" in err and err.count("\n") == 1, err


def test_a_metrics_port_that_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = start("worker", "--metrics", taken.getsockname()[1])
        out, err = worker.communicate(timeout=TIMEOUT)
    assert worker.returncode == 1 and not out
    assert err.startswith("decnn: metrics: can't listen on 127.0.0.1:") and err.count("\n") == 1


def test_the_bare_worker_says_it_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        worker = [sys.executable, "-m", "decnn_tvm.runtime.worker", "--port", port]
        done = subprocess.run(worker, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"port {port}" in done.stderr and "Take another --port" in done.stderr
