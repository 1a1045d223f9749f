# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from decnn_tvm.cli.main import main
from decnn_tvm.testing import zoo


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command as a process whose temporary files go to a folder of this test."""
    processes: list[subprocess.Popen[str]] = []
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "decnn_tvm", *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        return Done(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dense model, a decoupled one, and a package of it for G = 2."""
    path = tmp_path_factory.mktemp("cli")
    onnx.save(zoo.small("resnet18"), path / "dense.onnx")
    np.save(path / "x.npy", np.random.default_rng(7).standard_normal((1, 3, 64, 64), "float32"))
    arguments = ("decouple", path / "dense.onnx", "-o", path / "grouped.onnx", "--groups", 2)
    assert main([str(a) for a in arguments]) == 0
    arguments = ("compile", path / "grouped.onnx", "-o", path / "grouped.pkg", "--no-all-shares")
    assert main([str(a) for a in arguments]) == 0
    return path
