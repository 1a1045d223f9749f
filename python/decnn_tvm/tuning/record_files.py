# SPDX-License-Identifier: Apache-2.0
"""The files of a database of records: lines of JSON, as MetaSchedule's `JSONDatabase` has them.

A record names its layer by the number of a line, so a line must never be lost or written twice.
TVM's own writer does not look whether a line has arrived; here a line is on the disk when `append`
returns, and has left nothing when it raises. What an interrupted write has left at the end of a
file is cut off by the next writer, and not seen by readers. A reader and a writer each lock a file
while they use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decnn_tvm.errors import RecordsError, last_line

logger = logging.getLogger(__name__)

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


def prepare(folder: Path) -> None:
    """Make sure that `folder` is there, has both files, and can be written.

    Raises
    ------
    RecordsError
        It can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WORKLOADS, RECORDS):
            with _opened(folder / name, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as file:
                _mend(folder / name, file)
    except OSError as error:
        raise RecordsError(
            f"{folder}: tuning records can't be written there ({error.strerror}). "
            "Choose a folder that can be written."
        ) from error


def read(folder: Path) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return the lines of the layers and of the records.

    Raises
    ------
    RecordsError
        The folder has none, or a line is damaged.
    """
    if not (folder / RECORDS).is_file() or not (folder / WORKLOADS).is_file():
        raise RecordsError(
            f"{folder}: holds no tuning records ({RECORDS}); expected a folder that "
            "`decnn tune --records` wrote"
        )
    # Records first: a layer is written before its record, so each finds its layer.
    records = _lines(folder / RECORDS, "Delete that line, or use another folder.")
    workloads = _lines(
        folder / WORKLOADS,
        "Keep that line, since records name layers by their lines: get the file back from a copy, "
        "or use another folder.",
    )
    for number, record in enumerate(records, 1):
        index = record[0] if len(record) == 2 else None
        if not isinstance(index, int):
            raise RecordsError(
                f"{folder / RECORDS}: line {number} is no tuning record. Use another folder."
            )
        if not 0 <= index < len(workloads):
            raise RecordsError(
                f"{folder / RECORDS}: line {number} is of layer {index}, and {WORKLOADS} has "
                f"{len(workloads)}. Delete that line, or use another folder."
            )
    return workloads, records


def append(path: Path, entry: Any) -> None:
    """Add a line to a file, or leave the file as it is.

    Raises
    ------
    OSError
        It can't be written.
    """
    data = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as file:
        size = _mend(path, file)
        try:
            _write(file, data)
            os.fsync(file)
        except BaseException:
            os.ftruncate(file, size)
            raise


@contextlib.contextmanager
def _opened(path: Path, flags: int, lock: int) -> Iterator[int]:
    """Open a file and lock it; readers and writers hold it for no longer than they move bytes."""
    file = os.open(path, flags, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, lock)
        yield file
    finally:
        os.close(file)


def _mend(path: Path, file: int) -> int:
    """Go to the end of the last whole line, cut off what is behind it, return the size."""
    size = os.lseek(file, 0, os.SEEK_END)
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return size
    kept, rest = _whole_lines(os.pread(file, size, 0))
    if rest:
        logger.warning("%s: cut off its last line, which was not written to its end", path)
        os.ftruncate(file, len(kept))
        return os.lseek(file, 0, os.SEEK_END)
    _write(file, b"\n")
    return size + 1


def _whole_lines(data: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines, and an incomplete last one."""
    start = data.rfind(b"\n") + 1
    try:
        json.loads(data[start:] or b"[]")
    except (ValueError, RecursionError):
        return data[:start], data[start:]
    return data, b""


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _lines(path: Path, remedy: str) -> list[list[Any]]:
    try:
        with _opened(path, os.O_RDONLY, fcntl.LOCK_SH) as file:
            data = os.pread(file, os.fstat(file).st_size, 0)
        lines = _whole_lines(data)[0].decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordsError(f"{path}: unreadable ({last_line(error)})") from error
    return [_entry(path, number, line, remedy) for number, line in enumerate(lines, 1)]


def _entry(path: Path, number: int, line: str, remedy: str) -> list[Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"{path}: line {number} is damaged. {remedy}") from error
    if not isinstance(entry, list):
        raise RecordsError(f"{path}: line {number} is no tuning record. Use another folder.")
    return entry
