# SPDX-License-Identifier: Apache-2.0
"""Records that come with the library: the best of each layer, compressed.

A layer takes 124 KB in MetaSchedule's database, and 9 KB compressed.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from decnn_tvm.tuning.record_files import RECORDS, WORKLOADS
from decnn_tvm.tuning.records import Records


def read_shipped(folder: Path) -> Records:
    """Return the records that `write_shipped` left in a folder.

    Raises
    ------
    RecordsError
        They are damaged.
    """
    with tempfile.TemporaryDirectory(prefix="decnn-records-") as unpacked:
        for name in (WORKLOADS, RECORDS):
            packed = (folder / f"{name}.gz").read_bytes()
            (Path(unpacked) / name).write_bytes(gzip.decompress(packed))
        return Records(unpacked)


def write_shipped(records: Path | str, folder: Path | str) -> None:
    """Write the best record of each layer of a database to a folder, compressed.

    Raises
    ------
    RecordsError
        There is no database, or it is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="decnn-records-") as best:
        Records(records).copy_best(Records(best, create=True))
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in (WORKLOADS, RECORDS):
            # Without a time stamp, so that equal records make equal files.
            packed = gzip.compress((Path(best) / name).read_bytes(), mtime=0)
            (Path(folder) / f"{name}.gz").write_bytes(packed)
