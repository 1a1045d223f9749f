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
import ipaddress
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

from rpyc.utils.helpers import classpartial
from rpyc.utils.server import ThreadedServer

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.runtime.control import ControlService, WorkerState, keep_alive, protocol
from decnn_tvm.runtime.library import load_runtime

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
EXIT_TIMEOUT = 15.0
"""Seconds after which a worker that does not come to its end is ended, with a traceback."""
PARENT_POLL = 1.0
ORPHAN_POLL = 1.0


def serve(
    host: str, port: int, folder: Path, stopping: threading.Event, limit: int | None = None
) -> None:
    """Serve on ``host:port`` (0 for a free port) until `stopping` is set, in `limit` bytes."""
    _leave_out_torch()
    load_runtime()
    state = WorkerState(folder, host, STOP_TIMEOUT, limit)
    server = ThreadedServer(
        classpartial(ControlService, state),
        hostname=host,
        port=port,
        protocol_config=protocol(CALL_TIMEOUT),
        logger=logger,
    )
    keep_alive(server.listener)
    thread = threading.Thread(target=server.start, name="decnn-control", daemon=True)
    thread.start()
    # Before it listens, a port that is announced refuses the coordinator.
    _wait_until_active(server)
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
        The host is not loopback, and ``--insecure`` is not given.
    """
    options = _parser().parse_args(arguments)
    reachable = not _is_loopback(options.host)
    if reachable and not options.insecure:
        raise InputError(
            f"--host {options.host}: other machines may reach it and run code here. Use 127.0.0.1, "
            "or add --insecure in a network that you trust."
        )
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if reachable:
        logger.warning("anyone who reaches %s can run code on this machine", options.host)
    logger.setLevel(logging.ERROR)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    if options.until_eof:
        threading.Thread(target=_wait_for_eof, args=(stopping, os.getppid()), daemon=True).start()
    folder, code = None, 0
    try:
        folder = Path(tempfile.mkdtemp(prefix="decnn-worker-", dir=options.folder))
        serve(options.host, options.port, folder, stopping, options.memory)
    except SystemExit:
        pass
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wait_until_active(server: ThreadedServer) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decnn_tvm.runtime.worker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--insecure", action="store_true", help="allow a host beyond loopback")
    parser.add_argument("--port", type=int, default=0, help="control port; 0 for any free one")
    parser.add_argument("--memory", type=int, help="bytes that this process may take")
    parser.add_argument("--folder", help="where to make the folder for uploaded files")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"decnn_tvm.runtime.worker: {error}")
