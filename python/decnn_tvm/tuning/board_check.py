# SPDX-License-Identifier: Apache-2.0
"""Asks a board, or this machine, what it is before anything is measured there.

A library for another machine, or for a newer processor, fails in every trial, each in its own way.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Collection

from tvm import rpc
from tvm.support.popen_pool import PopenPoolExecutor

from decnn_tvm.errors import ClusterError, InputError, last_line
from decnn_tvm.runtime.processor import normal_machine, processor_features
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
    question = pool.submit(
        _describe, tracker.host, tracker.port, tracker.key, max(1, round(timeout))
    )
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
    if misfit := _misfit(board["machine"], board["features"], target):
        raise ClusterError(
            f"{name} {misfit}. Pass the key of other boards, or the --target of these."
        )


def check_host(target: CpuTarget) -> None:
    """Make sure that this machine runs code for `target`.

    Raises
    ------
    InputError
        It is another kind of machine.
    """
    # A system that tells no features is taken to have them all.
    features = processor_features() or target.features
    if misfit := _misfit(normal_machine(platform.machine()), features, target):
        raise InputError(
            f"this machine {misfit}. Measure on such boards, with --tracker and --key, or pass "
            "the --target 'host'."
        )


def _misfit(machine: str, features: Collection[str], target: CpuTarget) -> str:
    """Return what keeps a machine from running code for `target`, or nothing."""
    if machine != target.machine:
        return f"is {machine}; target {target.name!r} is code for {target.machine}"
    lacking = [flag for flag in target.features if flag not in features]
    return f"lacks the CPU features {lacking} of target {target.name!r}" if lacking else ""


def _describe(host: str, port: int, key: str, timeout: int) -> str:
    """Return what a board says of itself, nothing where it has no such function."""
    session = rpc.connect_tracker(host, port).request(key, session_timeout=timeout)
    try:
        ask = session.get_function(DESCRIBE)
    except Exception:  # a plain RPC server: any class that RPC raises
        return ""
    return str(ask())
