# SPDX-License-Identifier: Apache-2.0
"""A worker process: ``python -m decnn_tvm.runtime.worker``.

It loads TVM's runtime, listens for a coordinator, prints one line of JSON with its address, and
serves until SIGTERM or SIGINT, or, with ``--until-eof``, until its standard input ends, which it
does when the process that started it is gone. Its files live in a folder that it removes.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from decnn_tvm.errors import ClusterError, DecnnError
from decnn_tvm.runtime.control import ControlService, WorkerState
from decnn_tvm.runtime.control_server import ControlServer
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.exposure import accept_exposure, check_exposure
from decnn_tvm.runtime.library import load_runtime
from decnn_tvm.runtime.log_context import log_to_stderr, name_process
from decnn_tvm.runtime.machine import reuse_freed_memory
from decnn_tvm.runtime.tuning_process import Tuning, TuningProcess

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
EXIT_TIMEOUT = 15.0
"""Seconds after which a worker that does not come to its end is ended, with a traceback."""
PARENT_POLL = 1.0
ORPHAN_POLL = 1.0


def serve(
    host: str,
    port: int,
    folder: Path,
    stopping: threading.Event,
    limit: int | None = None,
    *,
    keys: Path | str | None = None,
    insecure: bool = False,
    metrics: str | None = None,
    tuning: Tuning | None = None,
) -> None:
    """Serve on ``host:port`` (0 for a free port) until `stopping` is set.

    Parameters
    ----------
    host, port
        Where coordinators connect to.
    folder : Path
        Where uploads go.
    stopping : Event
        Ends the worker.
    limit : int, optional
        Bytes that this process may take.
    keys : path, optional
        This worker's folder of those that ``decnn keys`` made.
    insecure : bool
        Serve everybody who reaches a host beyond loopback.
    metrics : str, optional
        ``PORT`` or ``HOST:PORT`` of a page of Prometheus metrics.
    tuning : Tuning, optional
        Where this machine also offers itself for `decnn tune`, in a process of its own.

    Raises
    ------
    InputError
        The host is not loopback, with neither keys nor `insecure`; or the keys are damaged.
    """
    credentials = None if keys is None else Credentials.load(keys)
    accept_exposure(host, keys=credentials is not None, insecure=insecure)
    _leave_out_torch()
    reuse_freed_memory()
    load_runtime()
    state = WorkerState(folder, host, STOP_TIMEOUT, limit, encrypt=credentials is not None)
    server = ControlServer(lambda: ControlService(state), host, port, CALL_TIMEOUT, credentials)
    state.refused_clients = lambda: server.refused
    thread = threading.Thread(target=server.start, name="decnn-control", daemon=True)
    thread.start()
    # Before it listens, a port that is announced refuses the coordinator.
    _wait_until_active(server)
    name_process(f"{host}:{server.port}")
    with contextlib.ExitStack() as ends:
        if metrics is not None:
            from decnn_tvm.runtime.metrics import serve_metrics

            ends.callback(serve_metrics(state.observe, metrics, insecure=insecure))
        if tuning is not None:
            ends.callback(TuningProcess(tuning, insecure=insecure).close)
        print(json.dumps({"host": host, "port": server.port}), flush=True)
        try:
            while not stopping.wait(ORPHAN_POLL):
                state.close_orphan()
        finally:
            faulthandler.dump_traceback_later(EXIT_TIMEOUT, exit=True)
            state.shut_down()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker with command line arguments.

    Raises
    ------
    InputError
        The host is not loopback, and neither ``--keys`` nor ``--insecure`` is given.
    """
    options = _parser().parse_args(arguments)
    if options.keys:
        Credentials.load(options.keys)
    check_exposure(options.host, keys=bool(options.keys), insecure=options.insecure)
    tuning = _tuning(options)
    faulthandler.enable()
    log_to_stderr()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    if options.until_eof:
        threading.Thread(target=_wait_for_eof, args=(stopping, os.getppid()), daemon=True).start()
    folder, code = None, 0
    try:
        folder = Path(tempfile.mkdtemp(prefix="decnn-worker-", dir=options.folder))
        serve(
            options.host,
            options.port,
            folder,
            stopping,
            options.memory,
            keys=options.keys,
            insecure=options.insecure,
            metrics=options.metrics,
            tuning=tuning,
        )
    except SystemExit:
        pass
    except DecnnError:
        raise
    except Exception:
        logger.exception("worker failed")
        code = 1
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if options.folder:
            with contextlib.suppress(OSError):
                os.rmdir(options.folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a stage that hangs in native code must not keep the process


def _wait_until_active(server: ControlServer) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT
    while not server.active:
        if time.monotonic() > deadline:
            raise ClusterError(f"port {server.port}: does not listen within {STOP_TIMEOUT:g} s.")
        time.sleep(0.001)


def _leave_out_torch() -> None:
    """Keep `tvm_ffi` from importing torch where it is installed: a worker has no use for it."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


def _leave(*_: object) -> None:
    """Leave the main thread's wait, which setting its event from here could block; once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit


def _wait_for_eof(stopping: threading.Event, parent: int) -> None:
    """Notice the end of the process that started this one.

    Its children may have inherited the other end of the pipe, so that no end of file comes.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        while os.getppid() == parent:
            if selector.select(PARENT_POLL) and not os.read(sys.stdin.fileno(), 1 << 16):
                break
    stopping.set()


def _tuning(options: argparse.Namespace) -> Tuning | None:
    """Return where this machine is to tune, once that is allowed."""
    if options.tuning is None:
        return None
    tuning = Tuning(
        tracker=options.tuning,
        key=options.tuning_key,
        host=options.tuning_host,
        port=options.tuning_port,
    )
    tuning.check(insecure=options.insecure)
    return tuning


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decnn_tvm.runtime.worker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--keys", help="this worker's folder of those that `decnn keys` made")
    parser.add_argument(
        "--insecure", action="store_true", help="allow a host beyond loopback without keys"
    )
    parser.add_argument("--metrics", help="[HOST:]PORT of a page of Prometheus metrics")
    parser.add_argument("--port", type=int, default=0, help="control port; 0 for any free one")
    parser.add_argument("--memory", type=int, help="bytes that this process may take")
    parser.add_argument("--tuning", help="host:port of an RPC tracker to tune for as well")
    parser.add_argument("--tuning-key", default="", help="what to be registered as there")
    parser.add_argument("--tuning-host", default="127.0.0.1", help="interface of TVM's RPC")
    parser.add_argument("--tuning-port", type=int, default=9091, help="port of TVM's RPC")
    parser.add_argument("--folder", help="where to make the folder for uploaded files")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    return parser


if __name__ == "__main__":
    try:
        main()
    except DecnnError as error:
        sys.exit(f"decnn_tvm.runtime.worker: {' '.join(str(error).split())}")
