# SPDX-License-Identifier: Apache-2.0
"""Numbers that are none, or beyond any use, end in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.errors import InputError
from decnn_tvm.runtime import Cluster, LocalCluster

Command = Callable[..., Any]


def refused(command: Command, arguments: list[object], *words: str) -> None:
    """Assert that a command fails with one short line that holds these words."""
    done = command(*arguments)
    assert done.status == 2, done
    assert done.err.count("\n") == 1 and len(done.err) < 400, done.err
    assert all(word in done.err for word in words), done.err


@pytest.mark.parametrize("timeout", ["-1", "0", "nan", "inf", "1e400", "1e12", "soon"])
def test_timeouts(command: Command, folder: Path, timeout: str) -> None:
    arguments = ["run", folder / "grouped.pkg", "--random", 1, f"--timeout={timeout}"]
    refused(command, arguments, "timeout", "expected a number of seconds")


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), "60", None])
def test_timeouts_of_clusters(timeout: Any) -> None:
    for make in (
        lambda: LocalCluster(1, timeout=timeout),
        lambda: Cluster.connect(["127.0.0.1:1"], timeout=timeout),
    ):
        with pytest.raises(InputError, match=r"timeout=.*: expected a number of seconds, above 0"):
            make()


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_counts_of_hundreds_of_digits(command: Command, folder: Path, digits: int) -> None:
    out = ["-o", folder / "never.html", "--counts", "1," + "9" * digits]
    refused(command, ["report", folder / "dense.onnx", *out], "--counts", "at most")
    assert not (folder / "never.html").exists()


def test_a_target_that_is_nested_too_deeply(command: Command, folder: Path) -> None:
    out, deep = ["-o", folder / "never.pkg", "--workers", 2], "[" * 100_000
    refused(command, ["compile", folder / "dense.onnx", *out, "--target", deep], "too deeply")
