# SPDX-License-Identifier: Apache-2.0
"""What a log record is about: which worker, and which sample and stage its thread is at.

The engine says where it is, at the cost of three assignments a stage. A handler whose filter is
`add_context` finds it in its records, as ``%(worker)s``, ``%(sample)s`` and ``%(stage)s``. Only a
command line calls `log_to_stderr`, which sets such a handler and the format.
"""

from __future__ import annotations

import logging
import threading

NOTHING = "-"
FORMAT = "%(levelname)s worker=%(worker)s sample=%(sample)s stage=%(stage)s %(name)s: %(message)s"


class _Place(threading.local):
    """Where a thread is."""

    rank: int | None = None
    sample: int | None = None
    stage: str = NOTHING


_place = _Place()
_process = NOTHING


def enter(rank: int, sample: int, stage: str) -> None:
    """Say what this thread works on from now on; after a failure it still says where that was."""
    _place.rank, _place.sample, _place.stage = rank, sample, stage


def leave() -> None:
    """Say that this thread is between two stages."""
    _place.sample, _place.stage = None, NOTHING


def name_process(name: str) -> None:
    """Say what this process is called."""
    global _process
    _process = name


def add_context(record: logging.LogRecord) -> bool:
    """Add the fields to a record and keep it; a filter for handlers."""
    rank = "" if _place.rank is None else f"/rank{_place.rank}"
    record.worker = f"{_process}{rank}"
    record.sample = NOTHING if _place.sample is None else _place.sample
    record.stage = _place.stage
    return True


def log_to_stderr() -> None:
    """Send this process's records to standard error, in the one format."""
    handler = logging.StreamHandler()
    handler.addFilter(add_context)
    logging.basicConfig(format=FORMAT, handlers=[handler], force=True)
