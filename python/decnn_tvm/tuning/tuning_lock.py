# SPDX-License-Identifier: Apache-2.0
"""One run at a time tunes into a folder: a second one would number the layers as the first does.

Reading the folder takes no lock: it holds whole records at every moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from decnn_tvm.errors import RecordsError

logger = logging.getLogger(__name__)

LOCK = "tuning.lock"


@contextlib.contextmanager
def tuning_lock(folder: Path) -> Iterator[None]:
    """Keep other runs from tuning into `folder` while the block runs.

    Raises
    ------
    RecordsError
        Another one does, or the lock can't be had.
    """
    try:
        # Not in a mode that truncates: it may be another's.
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RecordsError(
            f"{folder / LOCK}: can't be written ({error.strerror}). Use another folder."
        ) from error
    try:
        _lock_or_name(folder, file)
        yield
    finally:
        os.close(file)


def _lock_or_name(folder: Path, file: int) -> None:
    """Take the lock and say who has it, or say who else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
        raise RecordsError(
            f"{folder}: {holder} tunes into this folder now, and one run at a time may. "
            "Start again when it has ended, or use another folder."
        ) from error
    except OSError as error:
        logger.warning("%s: other runs can't be kept out of it (%s)", folder, error.strerror)
    with contextlib.suppress(OSError):  # a full disk: the lock holds, without a name
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
