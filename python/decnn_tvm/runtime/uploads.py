# SPDX-License-Identifier: Apache-2.0
"""The files of a package as they come to a worker, piece by piece, kept in one folder."""

from __future__ import annotations

import re
from pathlib import Path

from decnn_tvm.errors import PackageError

MAX_UPLOAD = 4 << 30
"""Bytes of all files of a package on one worker."""
MAX_FILES = 4096
MAX_NAME = 200
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,3}[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Uploads:
    """Takes the files of one package; `folder` is there already."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: set[str] = set()
        self._received = 0

    def take(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece of a file; pieces come in order.

        Raises
        ------
        PackageError
            The name leaves the folder, a piece is out of order, or it is too much.
        """
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            raise PackageError(f"upload of {name[:MAX_NAME]!r}: not a file name of a package.")
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise PackageError(f"upload of {name!r}: not a file name of a package.")
        self._files.add(name)
        if len(self._files) > MAX_FILES:
            raise PackageError(f"upload of {name!r}: more than {MAX_FILES} files.")
        self._received += len(data)
        if self._received > MAX_UPLOAD:
            raise PackageError(f"upload of {name!r}: more than {MAX_UPLOAD} bytes in all.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            if file.seek(0, 2) != offset:
                raise PackageError(f"upload of {name!r}: piece at {offset} is out of order.")
            file.write(data)
