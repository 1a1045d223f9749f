# SPDX-License-Identifier: Apache-2.0
"""Emulated ARM boards: processes under qemu-user, in the userland that `make test-arm` makes.

Each has its own process and its own address on loopback; they share the two cores of whoever runs
this. Times say nothing about boards.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest

import decnn_tvm
from decnn_tvm.package import Package
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.testing import zoo

FOLDER = os.environ.get("DECNN_ARM", "")
collect_ignore_glob = [] if FOLDER else ["test_*.py"]

START = 300.0
PATIENT = Policy(beat=0.5, silence=20.0, orphan=300.0)
"""An emulated board that computes may not come to beat for a while."""
DECOUPLED = "decoupled.onnx"


@dataclass(slots=True)
class Board:
    """A worker on an emulated board."""

    process: subprocess.Popen[str]
    address: str = ""


@dataclass(slots=True)
class Boards:
    """Starts programs on emulated boards, and ends them."""

    root: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, *arguments: object) -> list[str]:
        """Return the command that runs another on a board."""
        enter = Path(__file__).with_name("enter.sh")
        return [str(enter), str(self.root), *map(str, arguments)]

    def run(self, *arguments: object, cpu: str = "cortex-a72") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environment = {**os.environ, "QEMU_CPU": cpu}
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=START, env=environment
        )

    def start(self, count: int, *options: object, cpu: str = "cortex-a72") -> list[Board]:
        """Start workers, all at once, and wait until they listen."""
        boards = []
        for _ in range(count):
            process = subprocess.Popen(
                self.command("decnn", "worker", *options),
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "QEMU_CPU": cpu},
                start_new_session=True,
            )
            self.processes.append(process)
            boards.append(Board(process))
        for board in boards:
            place = json.loads(first_line(board.process))
            board.address = f"{place['host']}:{place['port']}"
        return boards

    def end(self) -> None:
        """End all that was started."""
        while self.processes:
            process = self.processes.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process writes."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(START), f"nothing within {START:g} s"
    return process.stdout.readline()


@pytest.fixture
def boards() -> Iterator[Boards]:
    """Return what starts emulated boards."""
    made = Boards(Path(FOLDER) / "root")
    yield made
    made.end()


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, Any]]:
    """Return where measured figures go; they are written to a file in the end."""
    found: dict[str, Any] = {}
    start = time.monotonic()
    yield found
    found["seconds of all tests"] = round(time.monotonic() - start)
    (Path(FOLDER) / "figures.json").write_text(json.dumps(found, indent=2) + "\n")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a full-size ResNet-18, decoupled into four groups."""
    path = tmp_path_factory.mktemp("arm")
    onnx.save(zoo.resnet(18), path / "dense.onnx")
    network = decnn_tvm.decouple(decnn_tvm.load(path / "dense.onnx"), groups=4)
    decnn_tvm.save_onnx(network, path / DECOUPLED)
    return path


@pytest.fixture(scope="session")
def build(folder: Path) -> Callable[..., Package]:
    """Return what compiles the decoupled network for some targets, each set of them once."""
    made: dict[tuple[str, ...], Package] = {}

    def compiled(*targets: str, **options: Any) -> Package:
        if targets not in made:
            network = decnn_tvm.load(folder / DECOUPLED)
            out = folder / ("-".join(targets) + ".pkg")
            made[targets] = decnn_tvm.compile(network, out, targets=targets, **options)
        return made[targets]

    return compiled
