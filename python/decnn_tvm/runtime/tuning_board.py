# SPDX-License-Identifier: Apache-2.0
"""A board that measures candidates: ``python -m decnn_tvm.runtime.tuning_board``.

TVM's RPC server, registered at a tracker under a key. TVM ends the server
when a candidate crashes its process, so it is started again here; the tracker then knows the board
again. Ask ``decnn.board`` over RPC what kind of machine it is.

TVM's RPC asks nobody who he is: whoever reaches the port runs code here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decnn_tvm.runtime.tuning_process import DESCRIBE

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds before a server that has ended is started again."""
PARENT_POLL = 1.0


def serve(tracker: str, key: str, host: str, port: int) -> None:
    """Serve for ever on ``host:port``, and be known to the tracker under `key`."""
    import tvm_ffi
    from tvm.rpc.server import PopenRPCServerState

    _load_extra_functions()
    multiprocessing.set_start_method("fork")  # a session has a process that inherits all this
    tvm_ffi.register_global_func(DESCRIBE, _describe)
    tracker_host, _, tracker_port = tracker.rpartition(":")
    while True:
        server = PopenRPCServerState(
            host,
            port,
            port + 1,
            tracker_addr=(tracker_host, int(tracker_port)),
            key=key,
            custom_addr=host,
            silent=True,
        )
        server.thread.join()
        server.sock.close()
        logger.warning("the RPC server has ended, by a candidate or the tracker; it starts again")
        time.sleep(PAUSE)


def _log_thread_end(problem: threading.ExceptHookArgs) -> None:
    """Log why the server's thread has ended, in place of a traceback."""
    logger.warning("RPC: %s", problem.exc_value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve with command line arguments."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # which TVM would import
    threading.excepthook = _log_thread_end
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
    try:
        serve(options.tracker, options.key, options.host, options.port)
    except (OSError, ValueError) as error:
        sys.exit(f"tuning: can't serve on {options.host}:{options.port} ({error})")


def _load_extra_functions() -> None:
    """Load what fills inputs before they are timed, which the bare runtime lacks."""
    import tvm

    extra = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_extra.so"
    if extra.is_file():
        ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)


def _describe() -> str:
    from decnn_tvm.package import versions
    from decnn_tvm.runtime.machine import this_machine

    machine = this_machine()
    data: dict[str, Any] = {"machine": machine.machine, "features": list(machine.features)}
    return json.dumps({**data, "versions": versions()})


def _follow_parent(parent: int) -> None:
    """End, with what is being measured, when the process that started this one is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="decnn_tvm.runtime.tuning_board", description=__doc__)
    parser.add_argument("--tracker", required=True, help="host:port of the tracker")
    parser.add_argument("--key", required=True, help="what to be registered as")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    parser.add_argument("--port", type=int, default=9091, help="port to listen on")
    return parser


if __name__ == "__main__":
    main()
