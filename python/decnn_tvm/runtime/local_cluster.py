# SPDX-License-Identifier: Apache-2.0
"""Worker processes on this machine: the embedded default."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from decnn_tvm.errors import ClusterError, ClusterTimeout
from decnn_tvm.runtime.cluster import TIMEOUT, Cluster
from decnn_tvm.runtime.credentials import Credentials, cluster_folders
from decnn_tvm.runtime.machine import cores
from decnn_tvm.runtime.own_process import OwnProcess
from decnn_tvm.runtime.remote_worker import RemoteWorker

HOST = "127.0.0.1"
STOP_TIMEOUT = 8.0
TAIL = 2000
"""Characters of a dead worker's standard error that an error shows."""


class LocalCluster(Cluster):
    """Starts `count` worker processes and ends them.

    The processes end with this one, however it ends. Ctrl-C reaches only this process, which
    then closes the cluster in order.

    Parameters
    ----------
    count : int
        How many workers.
    timeout : float
        Seconds that any wait for a worker may take.
    threads : int, optional
        Threads of each worker's kernels; by default the cores divided by `count`, at least 1.
        NumPy's own libraries get one: a worker computes nothing with them.
    keys : path, optional
        A folder that ``decnn keys`` made: both planes are then authenticated and encrypted, as
        between machines. The workers take the identities in it in turn.
    restart : bool
        Whether a worker process that has ended is started again for the session that lost it.
    memory : int, optional
        Bytes that each worker process may take; by default what the machine has.

    Raises
    ------
    ClusterError
        A worker did not start; shows what it wrote.
    """

    def __init__(
        self,
        count: int,
        *,
        timeout: float = TIMEOUT,
        threads: int | None = None,
        keys: Path | str | None = None,
        restart: bool = True,
        memory: int | None = None,
    ) -> None:
        if count < 1:
            raise ClusterError(f"{count} workers: expected at least 1.")
        if threads is not None and threads < 1:
            raise ClusterError(f"threads={threads}: expected at least 1.")
        self._identities: tuple[Path, ...] = ()
        own = None
        if keys is not None:
            own, self._identities = cluster_folders(keys)
        credentials = None if own is None else Credentials.load(own)
        super().__init__([], host=HOST, timeout=timeout, credentials=credentials)
        self._folder = Path(tempfile.mkdtemp(prefix="decnn-cluster-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._end = weakref.finalize(
            self,
            _end,
            self._process,
            self._processes,
            self._workers,
            self._folder,
            min(STOP_TIMEOUT, timeout),
        )
        try:
            self._threads, self._restart = threads or max(1, cores() // count), restart
            self._memory = memory
            for rank in range(count):
                self._processes.append(self._spawn(rank))
            for rank in range(count):
                self._workers.append(self._greet(rank))
        except BaseException:
            self._end()
            raise

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The process ids of the workers, by rank."""
        return tuple(process.pid for process in self._processes)

    def cause(self, rank: int) -> str:
        """Return how a worker has ended, with what it wrote last; empty where it is there."""
        if rank < len(self._processes):
            process = self._processes[rank]
            if process.poll() is not None:
                return f"{_how_it_ended(process.returncode)}. {self.explain([rank])}"
        return super().cause(rank)

    def revive(self, rank: int) -> RemoteWorker:
        """Start a worker that has ended again, or connect to one that runs."""
        if rank >= len(self._processes) or self._processes[rank].poll() is None:
            return super().revive(rank)
        if not self._restart:
            raise ClusterError(f"worker {rank} has ended, and restart=False.")
        _close_pipes(self._processes[rank])
        self._processes[rank] = self._spawn(rank)
        self._workers[rank] = self._greet(rank)
        return self._workers[rank]

    def explain(self, ranks: Sequence[int]) -> str:
        """Return the end of what workers wrote to standard error."""
        tails = [f"worker {rank} wrote: {self._tail(rank)}" for rank in ranks]
        return "\n".join(tails)

    def close(self) -> None:
        """Close all sessions, end the processes, and remove their files."""
        try:
            super().close()
        finally:
            self._end()

    def __enter__(self) -> LocalCluster:
        return self

    def _spawn(self, rank: int) -> subprocess.Popen[bytes]:
        keys = self._identities[rank % len(self._identities)] if self._identities else None
        return _spawn(self._folder, rank, self._threads, self._memory, keys)

    def _greet(self, rank: int) -> RemoteWorker:
        line = self._first_line(rank)
        try:
            address = json.loads(line)
            place = f"{address['host']}:{address['port']}"
        except (ValueError, TypeError, KeyError) as error:
            raise ClusterError(
                f"worker {rank} wrote {line!r} in place of its address. Keep start-up code of "
                "Python (sitecustomize) from printing."
            ) from error
        name = f"worker {rank} (process {self._processes[rank].pid})"
        return RemoteWorker(place, name, self._timeout, self._credentials)

    def _first_line(self, rank: int) -> bytes:
        stream = self._processes[rank].stdout
        assert stream is not None
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if selector.select(max(0.0, deadline - time.monotonic())):
                line = stream.readline()
                if line:
                    return line
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._processes[rank].wait(STOP_TIMEOUT)
                raise ClusterError(f"worker {rank} did not start. {self.explain([rank])}")
        raise ClusterTimeout(f"worker {rank}: not ready within {self._timeout:g} s.")

    def _tail(self, rank: int) -> str:
        with contextlib.suppress(OSError):
            text = _log(self._folder, rank).read_text(errors="replace").strip()
            return text[-TAIL:] or "nothing"
        return "nothing"


def _log(folder: Path, rank: int) -> Path:
    return folder / f"worker{rank}.log"


def _spawn(
    folder: Path, rank: int, threads: int, memory: int | None, keys: Path | None
) -> subprocess.Popen[bytes]:
    files = folder / f"worker{rank}"
    shutil.rmtree(files, ignore_errors=True)  # what a worker that was killed has left there
    files.mkdir()
    command = [
        sys.executable,
        "-m",
        "decnn_tvm.runtime.worker",
        "--until-eof",
        "--folder",
        str(files),
        *(() if keys is None else ("--keys", str(keys.absolute()))),
        *(() if memory is None else ("--memory", str(memory))),
    ]
    with _log(folder, rank).open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=files,
            env=_environment(threads),
            start_new_session=True,
        )


def _environment(threads: int) -> dict[str, str]:
    """Return a worker's environment: it finds what this process finds, in the same order.

    It runs in an empty folder, so that nothing where the user happens to be hides a module.
    """
    paths = [os.path.abspath(path) for path in sys.path if path]
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TVM_NUM_THREADS": count,
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _end(
    owner: OwnProcess,
    processes: Sequence[subprocess.Popen[bytes]],
    workers: Sequence[RemoteWorker],
    folder: Path,
    timeout: float,
) -> None:
    """End worker processes, first by asking, after `timeout` by force, and remove their files.

    Only the process `owner` does so: a fork of it ends without ending what they share.
    """
    if owner.forked:
        return
    for worker in workers:
        worker.disconnect()
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that is frozen would not end
    deadline = time.monotonic() + timeout
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _close_pipes(process)
    shutil.rmtree(folder, ignore_errors=True)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"
