# SPDX-License-Identifier: Apache-2.0
"""In a process of its own: how the C library keeps memory is a setting of the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import threading
import numpy as np
from decnn_tvm.runtime.machine import freed_memory_returned, memory, reuse_freed_memory

BLOCKS, SIZE = 400, 100_000
reuse_freed_memory()

def work():
    before = memory().resident
    blocks = [np.ones(SIZE, np.uint8) for _ in range(BLOCKS)]
    assert memory().resident > before + 0.9 * BLOCKS * SIZE
    with freed_memory_returned():
        blocks.clear()
    print((memory().resident - before) / (BLOCKS * SIZE))

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="concerns glibc's arenas")
def test_what_a_thread_frees_is_returned() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    # With `trim` alone some 0.4 of it stays.
    assert float(done.stdout) < 0.2
