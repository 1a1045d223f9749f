# SPDX-License-Identifier: Apache-2.0
"""An RPC tracker, servers and workers in processes of their own: boards that every machine has."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from decnn_tvm.errors import ClusterError
from decnn_tvm.testing.process_output import first_line
from decnn_tvm.tuning.tracker import Tracker

START = 60.0


@contextlib.contextmanager
def running_tracker() -> Iterator[str]:
    """Run a tracker while the block runs; yield its address."""
    with _running("rpc_tracker") as (_, port):
        wait_until(lambda: _answers(port))
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def running_server(address: str, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that the tracker at `address` knows under `key` while the block runs."""
    before = known_boards(address, key)
    with _running("rpc_server", "--tracker", address, "--key", key) as (process, _):
        wait_until(lambda: known_boards(address, key) > before)
        yield process


@contextlib.contextmanager
def running_worker(
    address: str, key: str, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a worker that the tracker at `address` knows under `key`; yield it and its address.

    Raises
    ------
    ClusterError
        It does not start.
    TimeoutError
        The tracker does not hear of it in time.
    """
    tuning = ("--tuning", address, "--tuning-key", key, "--tuning-port", str(free_port()))
    command = [sys.executable, "-m", "decnn_tvm", "worker", *tuning, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        before = known_boards(address, key)
        place = json.loads(first_line(process, START))
        wait_until(lambda: known_boards(address, key) > before)
        yield process, f"{place['host']}:{place['port']}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def known_boards(address: str, key: str) -> int:
    """Return how many servers the tracker has under `key`."""
    try:
        return Tracker.parse(address, key).check()
    except ClusterError:
        return 0


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until `true` holds.

    Raises
    ------
    TimeoutError
        It does not within `START` seconds.
    """
    limit = time.monotonic() + START
    while not true():
        if time.monotonic() >= limit:
            raise TimeoutError(f"not within {START} s")
        time.sleep(0.1)


@contextlib.contextmanager
def _running(program: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    where = ("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1))
    process = subprocess.Popen(
        [sys.executable, "-m", f"tvm.exec.{program}", *where, *options],
        env={**os.environ, "TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, port
    finally:
        end(process)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
