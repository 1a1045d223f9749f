# SPDX-License-Identifier: Apache-2.0
"""How long messages take between two ranks, and what they cost: questions with empty answers.

A probe travels as any message does: checked, encrypted where there are keys, taken in by the
thread that computes. So what it takes is what a message of its size takes.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from decnn_tvm.errors import ClusterError, ClusterTimeout
from decnn_tvm.runtime.wire import ANSWER, PROBE, Buffer, Message

TIMEOUT = 20.0
"""Seconds that an answer may take."""
MAX_PROBES = 256

Send = Callable[[int, int, int, Sequence[Buffer]], None]
"""``send(sample, movement, target, payload)``, as `decnn_tvm.runtime.engine.Link.send`."""


class Probes:
    """Answers the probes of peers, and waits for answers to its own.

    Parameters
    ----------
    send : callable
        See `Send`.
    receive : callable, optional
        Takes in one message and passes it to `take`; by default another thread does so.
    """

    def __init__(self, send: Send, receive: Callable[[], None] | None = None) -> None:
        self._send, self._receive = send, receive
        self._answers: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def take(self, message: Message) -> bool:
        """Deal with a message if it is a probe or an answer; return whether it was one."""
        header = message.header
        if header.movement == PROBE:
            self._send(header.sample, ANSWER, header.source, [])
        elif header.movement == ANSWER:
            self._answers.put((header.source, header.sample))
        return header.movement in (PROBE, ANSWER)

    def measure(self, target: int, size: int, count: int) -> dict[str, Any]:
        """Send `count` probes of `size` bytes, one after the other; return what they took.

        Returns
        -------
        dict
            ``seconds``, to each answer, and ``processor_seconds`` of this process over all.

        Raises
        ------
        ClusterTimeout
            An answer did not come in time.
        """
        if not (0 <= size and 1 <= count <= MAX_PROBES):
            raise ClusterError(f"probe: {count} of {size} bytes; expected 1 to {MAX_PROBES}.")
        payload = [bytes(size)] if size else []
        seconds, before = [], time.process_time()
        for number in range(count):
            start = time.perf_counter()
            self._send(number, PROBE, target, payload)
            self._wait(target, number, size)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "processor_seconds": time.process_time() - before}

    def _wait(self, target: int, number: int, size: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._receive is not None:
                    self._receive()
                    answer = self._answers.get_nowait()
                else:
                    answer = self._answers.get(timeout=left)
            except queue.Empty:
                continue
            if answer == (target, number):
                return
        raise ClusterTimeout(
            f"a probe of {size} bytes to rank {target}: no answer within {TIMEOUT:g} s."
        )
