# SPDX-License-Identifier: Apache-2.0
"""Sizes, rates and times as people write them: ``2 GiB``, ``940 Mb/s``, ``0.2 ms``.

Sizes count in powers of 1024 with or without the ``i``, as memory is sold; rates count bits in
powers of 1000, as networks are. A ``b`` is a bit and a ``B`` is a byte.
"""

from __future__ import annotations

import math
import re
import reprlib

_NUMBER = r"(\d+(?:\.\d+)?)\s*"
_SIZE = re.compile(_NUMBER + r"([KMGT]?)(?:i?B)?")
_RATE = re.compile(_NUMBER + r"([kKMG]?)(?:b|bit)(?:/s|ps)")
_TIME = re.compile(_NUMBER + r"(us|µs|ms|s)")
_PER_SECOND = {"us": 1e6, "µs": 1e6, "ms": 1e3, "s": 1.0}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``64M``, ``1.5 GB`` or ``2 GiB``.

    Raises
    ------
    ValueError
        It has another form, is 0, or too large for a number.
    """
    found = _SIZE.fullmatch(text.strip())
    size = float(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else 0.0
    if not 1 <= size < math.inf:
        raise ValueError(f"{reprlib.repr(text)}: expected a size such as 64M or 1.5 GiB")
    return int(size)


def parse_rate(text: str) -> float:
    """Return the bits per second of a rate such as ``940 Mb/s`` or ``1 Gbit/s``.

    Raises
    ------
    ValueError
        It has another form, is below 1, or too large for a number.
    """
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) * 1000.0 ** " KMG".index(found[2].upper() or " ") if found else 0.0
    if not 1 <= rate < math.inf:
        raise ValueError(
            f"{reprlib.repr(text)}: expected bits per second such as 940 Mb/s or 1 Gb/s"
        )
    return rate


def parse_time(text: str) -> float:
    """Return the seconds of a time such as ``0.2 ms``, ``150 us`` or ``1 s``; 0 is allowed.

    Raises
    ------
    ValueError
        It has another form, or is too large for a number.
    """
    found = _TIME.fullmatch(text.strip())
    seconds = float(found[1]) / _PER_SECOND[found[2]] if found else math.inf
    if not seconds < math.inf:
        raise ValueError(f"{reprlib.repr(text)}: expected a time such as 0.2 ms or 150 us")
    return seconds


def format_size(size: int) -> str:
    """Return bytes as `parse_size` reads them, exactly."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size % 1024**power == 0:
            return f"{size // 1024**power} {unit}"
    return f"{size} B"


def format_rate(rate: float) -> str:
    """Return bits per second as `parse_rate` reads them, to four digits."""
    for factor, unit in ((1e9, "Gb/s"), (1e6, "Mb/s"), (1e3, "kb/s")):
        if rate >= factor:
            return f"{rate / factor:.4g} {unit}"
    return f"{rate:.4g} b/s"


def format_time(seconds: float) -> str:
    """Return seconds as `parse_time` reads them, to four digits."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.4g} {unit}"
    return f"{seconds * 1e6:.4g} us"
