# SPDX-License-Identifier: Apache-2.0
"""The process beside a worker in which its machine measures candidates for `decnn tune`.

It is a process of its own: what is measured may crash it, and a worker loads nothing of TVM's RPC.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.exposure import accept_exposure, check_exposure, is_loopback

logger = logging.getLogger(__name__)

DESCRIBE = "decnn.board"
"""Name of the function that says over RPC what kind of machine a board is."""
STOP_TIMEOUT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a process that has ended is started again: the port may be taken for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Where a machine offers itself for tuning.

    Attributes
    ----------
    tracker : str
        ``host:port`` of the RPC tracker.
    key : str
        What this machine is registered as.
    host, port
        Where it listens, and what the tracker tells others.
    """

    tracker: str
    key: str
    host: str = "127.0.0.1"
    port: int = 9091

    def __post_init__(self) -> None:
        name, _, port = self.tracker.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise InputError(
                f"tracker {self.tracker!r}: expected host:port, such as 127.0.0.1:9190."
            )
        if not self.key:
            raise InputError(f"tracker {self.tracker}: expected a key, such as rpi4.")

    def check(self, *, insecure: bool) -> None:
        """Refuse to listen beyond loopback unless somebody takes the risk.

        Raises
        ------
        InputError
            Others reach the host; keys do not help, since TVM's RPC has none.
        """
        try:
            check_exposure(self.host, keys=False, insecure=insecure)
        except InputError as error:
            raise InputError(
                f"tuning host {self.host!r}: TVM's RPC asks nobody who he is, with --keys or "
                "without. Stay on 127.0.0.1 and use a tunnel (docs/SECURITY.md), or add "
                "--insecure with the address of one interface in a network that you trust."
            ) from error


class TuningProcess:
    """Keeps `decnn_tvm.runtime.tuning_board` running until `close`."""

    def __init__(self, tuning: Tuning, *, insecure: bool = False) -> None:
        tuning.check(insecure=insecure)
        accept_exposure(tuning.host, keys=False, insecure=insecure)
        if is_loopback(tuning.host) and not is_loopback(tuning.tracker.rpartition(":")[0]):
            logger.warning(
                "tuning: the tracker at %s sends others to %s:%d, which only a tunnel reaches",
                tuning.tracker,
                tuning.host,
                tuning.port,
            )
        self._command = [
            sys.executable,
            "-m",
            "decnn_tvm.runtime.tuning_board",
            *("--tracker", tuning.tracker, "--key", tuning.key),
            *("--host", tuning.host, "--port", str(tuning.port)),
        ]
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name="decnn-tuning", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int:
        """The process that serves now."""
        return self._process.pid

    def close(self) -> None:
        """End the process and what it measures."""
        self._stopping.set()
        _end(self._process)
        self._thread.join(STOP_TIMEOUT)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},  # 3 MB in place of the compiler's 259
            start_new_session=True,
        )

    def _watch(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.wait(pause):
                return
            logger.warning("tuning ended with exit status %d; it starts again", code)
            pause = min(2 * pause, LONGEST_PAUSE)
            self._process = self._start()
            if self._stopping.is_set():
                _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT)
