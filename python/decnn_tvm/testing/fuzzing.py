# SPDX-License-Identifier: Apache-2.0
"""Random and mutated bytes for both planes, drawn from a seeded generator.

What starts from valid bytes reaches further than noise does, so most messages are valid ones with
something wrong: bits flipped, ends cut off, lengths that lie, pieces doubled.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from rpyc.core import brine, consts
from rpyc.core.channel import Channel

from decnn_tvm.runtime.control_channel import MAX_PACKET
from decnn_tvm.runtime.wire import MAX_FRAMES, Buffer, Header, encode

NOISE = 512
"""Most bytes of a piece of noise."""
OVERSIZED = 1 << 20
"""Bytes of a frame that no message of a small network has."""
GREETING = bytes((0xFF, *[0] * 8, 0x7F, 3, 0))
"""How ZMTP 3.0, ZeroMQ's protocol, begins; the mechanism's name follows."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one thing wrong."""
    at = rng.randrange(len(data) + 1)
    choice = rng.randrange(6)
    if choice == 0:
        return data[:at]
    if choice == 1:
        return data[:at] + rng.randbytes(rng.randrange(1, NOISE)) + data[at:]
    if choice == 2:
        return data[:at] + data[min(len(data), at + rng.randrange(1, 16)) :]
    if choice == 3:
        return data + data[: rng.randrange(1, NOISE)]
    changed = bytearray(data or b"\0")
    for _ in range(1 if choice == 4 else rng.randrange(2, 16)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def noise(rng: random.Random) -> bytes:
    """Return random bytes."""
    return rng.randbytes(rng.randrange(NOISE))


def data_message(rng: random.Random, valid: Sequence[bytes]) -> list[bytes]:
    """Return the frames of a message of the data plane that no receiver may count.

    Parameters
    ----------
    rng : Random
        Decides.
    valid : sequence of bytes
        The frames of a message that counts.
    """
    if not rng.randrange(50):
        return [valid[0], bytes(OVERSIZED)]
    choice = rng.randrange(6)
    if choice == 0:
        return [noise(rng) for _ in range(rng.randrange(1, 4))]
    if choice == 1:  # whole, but of a cluster that is not there
        return [bytes(frame) for frame in foreign_message(rng, b"".join(valid[1:]))]
    if choice == 2:
        return [noise(rng) or b"\0"] * (MAX_FRAMES + 1 + rng.randrange(4))
    frames = list(valid)
    if choice == 3 and len(frames) > 1:
        del frames[rng.randrange(len(frames))]
        return frames
    if choice == 4:
        return [*frames, noise(rng) + b"\0"]
    index = rng.randrange(len(frames))
    while frames[index] == valid[index]:
        frames[index] = mutated(valid[index], rng)
    return frames


def foreign_message(rng: random.Random, payload: bytes) -> list[Buffer]:
    """Return a whole message with a right checksum, of a cluster with another id."""
    header = Header(
        cluster=rng.randbytes(16),
        epoch=rng.randrange(4),
        sample=rng.randrange(1 << 20),
        movement=rng.randrange(4),
        source=rng.randrange(-1, 4),
        target=rng.randrange(-1, 4),
    )
    return encode(header, [payload])


def zmtp_bytes(rng: random.Random) -> bytes:
    """Return the start of a ZeroMQ connection that goes wrong somewhere."""
    mechanism = rng.choice((b"NULL", b"CURVE", b"PLAIN", b"GSSAPI", noise(rng)[:20]))
    greeting = GREETING + mechanism.ljust(20, b"\0")[:20] + bytes(32)
    size = rng.choice((0, 5, 200, 1 << 16, 1 << 31, 1 << 40, (1 << 64) - 1))
    command = b"\5HELLO" if mechanism == b"CURVE" else b"\5READY"
    body = command + rng.randbytes(rng.choice((0, 1, 144, 194, 250)))
    frame = rng.choice(
        (
            bytes((4, len(body) % 256)) + body,  # a short command
            b"\6" + struct.pack(">Q", size) + body,  # a long one whose length may lie
            b"\2" + struct.pack(">Q", size) + body,  # a message before the handshake
            noise(rng),
        )
    )
    data = greeting + frame
    return rng.choice((data, data, greeting + mutated(frame, rng), mutated(data, rng), noise(rng)))


def packet(data: bytes, *, length: int | None = None, compressed: int = 0) -> bytes:
    """Return a packet of rpyc around `data`, with a length that may lie."""
    head = Channel.FRAME_HEADER.pack(len(data) if length is None else length, compressed)
    return bytes(head + data + Channel.FLUSHER)


def control_request(rng: random.Random) -> bytes:
    """Return a packet with a well-formed request that asks for what nobody may have."""
    values = (0, -1, 1 << 70, "", "exposed_hello", "__class__", "_state", b"", noise(rng), None)
    handler = rng.randrange(0, 24)
    arguments = tuple(_boxed(rng, values) for _ in range(rng.randrange(4)))
    content = brine.dump((rng.randrange(1 << 16), (handler, (consts.LABEL_TUPLE, arguments))))
    return packet(bytes([consts.MSG_REQUEST]) + content)


def control_call(rng: random.Random) -> tuple[str, list[Any]]:
    """Return a worker's method and arguments that are mostly wrong."""
    values = (
        0,
        -1,
        1 << 70,
        "",
        "lib/a.so",
        "../a",
        "{}",
        "[" * 5000,
        '{"rank": 0}',
        b"",
        None,
        0.5,
    )
    methods = ("hello", "observe", "open", "upload", "start", "status", "close")
    return rng.choice(methods), [rng.choice((*values, noise(rng))) for _ in range(rng.randrange(4))]


def _boxed(rng: random.Random, values: Sequence[object]) -> tuple[int, object]:
    label = rng.randrange(6)
    if label == consts.LABEL_TUPLE:
        return label, tuple((consts.LABEL_VALUE, rng.choice(values)) for _ in range(2))
    if label in (consts.LABEL_LOCAL_REF, consts.LABEL_REMOTE_REF):
        return label, (rng.choice(("builtins.type", "a.b")), rng.randrange(99), rng.randrange(99))
    return label, rng.choice(values)


def control_bytes(rng: random.Random) -> bytes:
    """Return bytes for the control plane that are no request."""
    valid = control_request(rng)
    bomb = zlib.compress(bytes(1 << 20))
    nested = bytes([consts.MSG_REQUEST]) + brine.TAG_TUP1 * rng.randrange(1, 50_000)
    return rng.choice(
        (
            noise(rng),
            mutated(valid, rng),
            mutated(valid, rng),
            packet(valid, length=rng.choice((MAX_PACKET + 1, 0xFFFFFFFF))),
            packet(valid, length=rng.randrange(1, 4096)),
            packet(bomb, compressed=1),
            packet(nested),
            packet(bytes([rng.randrange(256)]) + noise(rng)),
            packet(bytes([rng.randrange(4)]) + brine.TAG_TUP_L4 + b"\xff\xff\xff\xff" + noise(rng)),
            b"GET / HTTP/1.1\r\n\r\n",
        )
    )
