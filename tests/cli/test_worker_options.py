# SPDX-License-Identifier: Apache-2.0
"""What `decnn worker` does besides serving: checks and units."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


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
