# SPDX-License-Identifier: Apache-2.0
"""What a process that was started says of itself, with a limit to the wait."""

from __future__ import annotations

import selectors
import subprocess

from decnn_tvm.errors import ClusterError


def first_line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """Return the next line that a process writes to the pipe of its standard output.

    Parameters
    ----------
    process : Popen
        Has written nothing besides what was read so.
    timeout : float
        Seconds until it begins to.

    Raises
    ------
    ClusterError
        It wrote nothing in time, or ended before.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout):
            raise ClusterError(
                f"process {process.pid} wrote nothing within {timeout:g} s: {process.args!r}"
            )
    line = process.stdout.readline()
    if not line:
        raise ClusterError(f"process {process.pid} ended without a word: {process.args!r}")
    return line
