# SPDX-License-Identifier: Apache-2.0
"""Choice of the channel block of the layout ``NCHW{b}c``.

Pure and independent of the target, so that devices of different kinds exchange tensors as they are.
"""

from __future__ import annotations

# One AVX-512 register of float32; 2 of AVX2, 4 of NEON.
MAX_BLOCK = 16
# Below this a block is too narrow to be worth it.
MIN_BLOCK = 4


def preferred_block(unit: int) -> int:
    """Return the channel block for tensors whose pieces start and end on multiples of `unit`.

    Parameters
    ----------
    unit
        Number of channels that is never cut, for example the channels of one group.

    Returns
    -------
    int
        The largest divisor of `unit` up to 16, or 1 (plain layout) if that is below 4.
    """
    block = max(size for size in range(1, MAX_BLOCK + 1) if unit % size == 0)
    return block if block >= MIN_BLOCK else 1
