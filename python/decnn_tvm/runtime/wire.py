# SPDX-License-Identifier: Apache-2.0
"""The messages of the data plane: a fixed binary header, then raw element bytes.

A header (64 bytes, little endian) holds magic, version, the cluster's id, epoch, sample,
movement, the ranks of source and target, payload length and a checksum over header and payload:
XXH3 with 64 bits, since a device checks every byte that it sends and receives, and a CRC-32 took
9 times as long. The payload may come in several frames; their concatenation counts. Whatever does
not fit is refused with the reason.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xxhash import xxh3_64

from decnn_tvm.errors import ClusterError

MAGIC = b"DCNN"
VERSION = 2
ERROR = 0xFFFFFFFF
"""In place of a movement: the payload is the text of an error of the sender."""
HEARTBEAT = 0xFFFFFFFE
"""In place of a movement: the payload is a `decnn_tvm.runtime.heartbeat.Pulse`."""
MAX_FRAMES = 64
MAX_PAYLOAD = 1 << 31
MAX_ERROR = 1 << 16

Buffer: TypeAlias = bytes | bytearray | memoryview

# magic, version, cluster, epoch, sample, movement, source, target, length, checksum
_LAYOUT = struct.Struct("<4sI16sIQIiiQQ")
_SUM = struct.Struct("<Q")
HEADER_BYTES = _LAYOUT.size


class WireError(ClusterError):
    """A message that is damaged, foreign or out of bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a message is.

    Attributes
    ----------
    cluster : bytes
        16 bytes that name the deployment.
    epoch : int
        Membership epoch; receivers drop older ones.
    sample : int
        Number of the sample, from 0.
    movement : int
        Index in ``plan.movements``, `ERROR` or `HEARTBEAT`.
    source : int
        Rank of the sender, `decnn_tvm.transfers.HOST` for the coordinator.
    target : int
        Rank of the receiver; another one refuses the message.
    """

    cluster: bytes
    epoch: int
    sample: int
    movement: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message; `payload` is the concatenation of these buffers."""

    header: Header
    payload: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return sum(part.nbytes for part in self.payload)


def encode(header: Header, payload: Sequence[Buffer]) -> list[Buffer]:
    """Return the frames of a message: the header's, then those of `payload`, not copied."""
    views = [memoryview(part).cast("B") for part in payload]
    length = sum(view.nbytes for view in views)
    head = _LAYOUT.pack(
        MAGIC,
        VERSION,
        header.cluster,
        header.epoch,
        header.sample,
        header.movement,
        header.source,
        header.target,
        length,
        0,
    )
    return [head[: -_SUM.size] + _SUM.pack(_checksum(head, views)), *views]


def decode(frames: Sequence[Buffer]) -> Message:
    """Read what `encode` wrote.

    Raises
    ------
    WireError
        The frames are no message of ours, or a damaged one.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise WireError(f"message of {len(frames)} frames; expected 1 to {MAX_FRAMES}")
    head, *rest = (memoryview(frame).cast("B") for frame in frames)
    if head.nbytes != _LAYOUT.size:
        raise WireError(f"header of {head.nbytes} bytes; expected {_LAYOUT.size}")
    magic, version, cluster, epoch, sample, movement, source, target, length, checksum = (
        _LAYOUT.unpack(head)
    )
    if magic != MAGIC:
        raise WireError(f"header starts with {magic!r}; expected {MAGIC!r}")
    if version != VERSION:
        raise WireError(
            f"wire version {version}; expected {VERSION}. Install the same decnn-tvm everywhere."
        )
    got = sum(part.nbytes for part in rest)
    if length != got or length > MAX_PAYLOAD:
        raise WireError(f"payload of {got} bytes; the header says {length}, at most {MAX_PAYLOAD}")
    header = Header(
        cluster=cluster,
        epoch=epoch,
        sample=sample,
        movement=movement,
        source=source,
        target=target,
    )
    if checksum != _checksum(bytes(head[: -_SUM.size]) + bytes(_SUM.size), rest):
        raise WireError(f"checksum differs (movement {movement}, sample {sample}, from {source})")
    return Message(header, tuple(rest))


def _checksum(head: bytes, parts: Sequence[memoryview]) -> int:
    state = xxh3_64(head)
    for part in parts:
        state.update(part)
    return state.intdigest()
