# SPDX-License-Identifier: Apache-2.0
"""Asks a board what it is before anything is measured there.

A library for another machine, or for a newer processor, fails in every trial, each in its own way.
"""

from __future__ import annotations

import json
import logging

from tvm import rpc
from tvm.support.popen_pool import PopenPoolExecutor

from decnn_tvm.errors import ClusterError, last_line
from decnn_tvm.runtime.tuning_process import DESCRIBE
from decnn_tvm.targets import CpuTarget
from decnn_tvm.tuning.tracker import Tracker

logger = logging.getLogger(__name__)


def check_board(
    tracker: Tracker, target: CpuTarget, pool: PopenPoolExecutor, timeout: float
) -> None:
    """Ask one board of the tracker's key whether it runs code for `target`.

    Parameters
    ----------
    tracker : Tracker
        Where the board is.
    target : CpuTarget
        What is to be measured.
    pool : PopenPoolExecutor
        Where the question is asked, since a board that hangs would hang this process.
    timeout : float
        Seconds that the board may take.

    Raises
    ------
    ClusterError
        It does not answer, or it is another kind of machine.
    """
    question = pool.submit(_describe, tracker.host, tracker.port, tracker.key, round(timeout))
    name = f"a board under the key {tracker.key!r} of tracker {tracker.host}:{tracker.port}"
    try:
        described = question.result()
    except Exception as error:  # whatever RPC raises, or that it took too long
        raise ClusterError(
            f"{name} does not answer ({last_line(error)}). The tracker gives out the address that "
            "the board listens on: is it reached from here, or is its tunnel closed?"
        ) from error
    if not described:
        logger.info("%s is a plain RPC server, which does not say what it is", name)
        return
    board = json.loads(described)
    if board["machine"] != target.machine:
        raise ClusterError(
            f"{name} is {board['machine']}; target {target.name!r} is code for {target.machine}. "
            "Pass the key of other boards, or the --target of these."
        )
    if lacking := [flag for flag in target.features if flag not in board["features"]]:
        raise ClusterError(
            f"{name} lacks the CPU features {lacking} of target {target.name!r}. Pass the key of "
            "other boards, or the --target of these."
        )


def _describe(host: str, port: int, key: str, timeout: int) -> str:
    """Return what a board says of itself, nothing where it has no such function."""
    session = rpc.connect_tracker(host, port).request(key, session_timeout=timeout)
    try:
        ask = session.get_function(DESCRIBE)
    except Exception:  # a plain RPC server: any class that RPC raises
        return ""
    return str(ask())
