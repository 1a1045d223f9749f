# SPDX-License-Identifier: Apache-2.0
"""What went through a transport: bytes by peer, and what was dropped as no message of ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from decnn_tvm.runtime.wire import HEADER_BYTES, Buffer, Message, WireError, decode

logger = logging.getLogger(__name__)


class Traffic:
    """Decodes and counts, for the threads of one transport.

    Parameters
    ----------
    cluster : bytes, optional
        The deployment whose messages are taken; any by default.

    Attributes
    ----------
    sent, received : dict of int to int
        Bytes, headers included, by the rank of the peer.
    refused : int
        Messages that were dropped.
    """

    def __init__(self, cluster: bytes | None = None) -> None:
        self._cluster = cluster
        self.sent: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.refused = 0

    def note_sent(self, target: int, frames: Sequence[Buffer]) -> None:
        """Count what leaves."""
        size = sum(memoryview(frame).nbytes for frame in frames)
        self.sent[target] = self.sent.get(target, 0) + size

    def decode(self, frames: Sequence[Buffer], source: int | None = None) -> Message | None:
        """Decode and count what arrives; None where it is no whole message of this cluster.

        Parameters
        ----------
        frames : sequence of buffers
            What arrived.
        source : int, optional
            The rank whose key it came with: it is refused where it names another one.
        """
        try:
            message = decode(frames)
        except WireError as error:
            self._refuse(str(error))
            return None
        header = message.header
        if self._cluster is not None and header.cluster != self._cluster:
            self._refuse(f"of another cluster, from {header.source}")
            return None
        if source is not None and header.source != source:
            self._refuse(f"in the name of {header.source}, who did not send it")
            return None
        size = message.nbytes + HEADER_BYTES
        self.received[header.source] = self.received.get(header.source, 0) + size
        return message

    def _refuse(self, why: str) -> None:
        self.refused += 1
        logger.info("dropped a message: %s", why)
