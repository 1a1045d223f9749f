# SPDX-License-Identifier: Apache-2.0
"""From nothing to a checked cluster on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.cluster_file import ClusterFile
from decnn_tvm.testing.boards import free_port

Command = Callable[..., Any]
Start = Callable[..., Any]


def test_from_init_to_check(command: Command, start: Start, folder: Path, tmp_path: Path) -> None:
    path, port = tmp_path / "boards.toml", free_port()
    address = f"127.0.0.1:{port}"
    init = ("cluster", "init", "-o", path, "--workers", f"pi-1={address}", "--memory", "4 GiB")
    done = command(*init)
    assert done.status == 0, done
    assert f"scp -rp {tmp_path / 'keys' / 'pi-1'} 127.0.0.1:decnn-keys" in done.out
    assert f"decnn worker --host 127.0.0.1 --port {port} --keys decnn-keys" in done.out
    done = command(*init)
    assert done.status == 2 and "is there already" in done.err

    check = ("cluster", "check", path, "--package", folder / "grouped.pkg")
    done = command(*check)
    assert done.status == 1 and "pi-1 (reachable)" in done.err and len(done.err.splitlines()) == 1
    assert f"no worker answers at {address}" in done.out

    keys = tmp_path / "keys" / "pi-1"
    start("worker", "--port", port, "--keys", keys).stdout.readline()
    done = command(*check, "--json", "--save-links")
    assert done.status == 0, done
    found = {f["check"]: f["detail"] for f in json.loads(done.out)["findings"]}
    assert "runs target 'host'" in found["processor"] and "channel groups" in found["memory"]
    cluster = ClusterFile.read(path)
    assert cluster.workers[0].memory == 4 << 30
    assert [link.between for link in cluster.links] == [("coordinator", "pi-1")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "pi"], "expected NAME=HOST:PORT"),
        (["--workers", "../pi=127.0.0.1:7000"], "letters, digits"),
        (["--workers", "pi=somewhere"], "expected host:port"),
        (["--workers", "pi=127.0.0.1:7000", "--memory", "much"], "64M"),
        (["--workers", "pi=127.0.0.1:7000", "pi=127.0.0.1:7001"], "name pi twice"),
    ],
)
def test_a_bad_cluster_leaves_nothing(
    command: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = command("cluster", "init", "-o", tmp_path / "cluster.toml", *arguments)
    assert (done.status, words in done.err, len(done.err.splitlines())) == (2, True, 1), done
    assert not list(tmp_path.iterdir())


def test_no_file_to_check(command: Command, tmp_path: Path) -> None:
    done = command("cluster", "check", tmp_path / "cluster.toml")
    assert done.status == 2 and "decnn cluster init" in done.err
