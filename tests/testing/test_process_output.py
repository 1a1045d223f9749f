# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from decnn_tvm.errors import ClusterError
from decnn_tvm.testing.process_output import first_line


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_next_line_each_time() -> None:
    with running("print(1, flush=True); input(); print(2, flush=True); input()") as process:
        assert process.stdin is not None
        assert first_line(process, 30) == b"1\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert first_line(process, 30) == b"2\n"


def test_silence_and_an_early_end_are_errors() -> None:
    with (
        running("input()") as process,
        pytest.raises(ClusterError, match=r"wrote nothing within 0\.1 s: .*input"),
    ):
        first_line(process, 0.1)
    with running("") as process, pytest.raises(ClusterError, match="ended without a word"):
        first_line(process, 30)
