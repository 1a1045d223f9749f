# SPDX-License-Identifier: Apache-2.0
"""Which attackers go for a worker, and with which share of the messages."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from decnn_tvm.runtime.session import Session
from decnn_tvm.runtime.wire import Header, encode
from decnn_tvm.testing import fuzzing
from decnn_tvm.testing.attackers import (
    Attack,
    caller,
    conversation,
    endless,
    raw,
    raw_zmtp,
    recorded,
    replays,
    tls_bytes,
    tls_client,
    zmq_peer,
    zmq_stranger,
)
from decnn_tvm.transfers import HOST


def valid_message(session: Session, rng: random.Random) -> list[bytes]:
    """Return the frames of an input of this very session, for a sample far ahead."""
    value = session.plan.value(session.plan.inputs[0])
    payload = rng.randbytes(int(np.prod(value.shape)) * np.dtype(value.dtype).itemsize)
    cluster = session._flight._link.cluster  # nobody else knows it
    header = Header(cluster=cluster, epoch=0, sample=1 << 30, movement=0, source=HOST, target=0)
    return [bytes(frame) for frame in encode(header, [payload])]


def attacks_without_keys(
    control: int,
    data: int,
    valid: Sequence[bytes],
    rng: random.Random,
    ends: contextlib.ExitStack,
) -> dict[str, tuple[float, Attack]]:
    """Return attacks on a worker without keys, by name, each with its share of the messages.

    The messages of the data plane are damaged ones of the session itself among others: an attacker
    on the path. A whole message of it is out of an attacker's reach, who does not know its id.
    """

    def messages() -> Iterator[list[bytes]]:
        while True:
            yield fuzzing.data_message(rng, valid)

    return {
        "data plane: frames": (0.5, zmq_peer(data, messages(), ends)),
        "data plane: bytes": (0.1, raw_zmtp(data, endless(lambda: fuzzing.zmtp_bytes(rng)))),
        "control plane: requests": (
            0.2,
            conversation(control, endless(lambda: fuzzing.control_request(rng)), ends),
        ),
        "control plane: calls": (0.1, caller(control, rng, ends)),
        "control plane: bytes": (0.1, raw(control, endless(lambda: fuzzing.control_bytes(rng)))),
    }


def attacks_with_keys(
    control: int,
    data: int,
    valid: Sequence[bytes],
    rng: random.Random,
    keys: Path,
    others: Path,
) -> dict[str, tuple[float, Attack]]:
    """Return attacks on a worker with keys.

    `keys` is the coordinator's folder, for a recording alone, `others` that of another cluster.
    """

    def request() -> bytes:
        return fuzzing.control_request(rng)

    return {
        "data plane: bytes": (0.5, raw_zmtp(data, endless(lambda: fuzzing.zmtp_bytes(rng)))),
        "data plane: whole messages, no keys": (
            0.05,
            zmq_stranger(data, itertools.repeat(valid), keyed=False),
        ),
        "data plane: whole messages, made-up keys": (
            0.05,
            zmq_stranger(data, itertools.repeat(valid), keyed=True),
        ),
        "control plane: recorded TLS, again": (
            0.1,
            raw(control, replays(recorded(control, keys), rng)),
        ),
        "control plane: TLS that goes wrong": (0.2, raw(control, tls_bytes(rng))),
        "control plane: TLS without certificate": (
            0.05,
            tls_client(control, endless(request), None),
        ),
        "control plane: TLS of another cluster": (
            0.05,
            tls_client(control, endless(request), others),
        ),
    }
