# SPDX-License-Identifier: Apache-2.0
"""The order in which messages leave a port."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from decnn_tvm.runtime.sender import AHEAD, AHEAD_OF_HOST, SOCKET_BYTES
from decnn_tvm.simulation.ports import Message, OutPort
from decnn_tvm.transfers import HOST


def message(
    sample: int, *, source: int = 0, target: int = 1, size: int = 2 * SOCKET_BYTES
) -> Message:
    return Message(sample, 0, source, target, size)


def drained(port: OutPort) -> list[tuple[int, int]]:
    """Return sample and target of each message, in order."""
    taken = []
    while port:
        left = port.take()
        taken.append((left.sample, left.target))
    return taken


def filled(messages: Sequence[Message]) -> OutPort:
    port = OutPort()
    for each in messages:
        port.put(each)
    return port


@pytest.mark.parametrize(
    ("source", "target", "ahead"),
    [(0, 1, AHEAD), (0, HOST, AHEAD_OF_HOST), (HOST, 0, AHEAD_OF_HOST)],
)
def test_the_oldest_sample_overtakes_what_its_socket_has_not_taken(
    source: int, target: int, ahead: int
) -> None:
    samples = [5, 4, 3, 2, 1]
    taken = 1 + ahead  # one of them is being written
    expected = [*samples[:taken], *sorted(samples[taken:])]
    found = drained(filled([message(s, source=source, target=target) for s in samples]))
    assert found == [(s, target) for s in expected]


def test_small_messages_are_the_kernels_at_once() -> None:
    samples = [5, 4, 3, 2, 1]
    small = [message(s, size=SOCKET_BYTES // 8) for s in samples]
    assert drained(filled(small)) == [(s, 1) for s in samples]


def test_a_message_that_leaves_makes_room() -> None:
    port = filled([message(s) for s in (9, 8, 7)])
    assert port.take().sample == 9
    port.put(message(1))
    # 7 was handed over when 9 left.
    assert [sample for sample, _ in drained(port)] == [8, 7, 1]


def test_peers_take_turns_and_do_not_keep_each_other_waiting() -> None:
    port = filled([message(2), message(3), message(1, target=2), message(4, target=2)])
    assert drained(port) == [(2, 1), (1, 2), (3, 1), (4, 2)]


def test_of_one_sample_the_first_leaves_first() -> None:
    first, second, third, fourth = (Message(0, k, 0, 1, 2 * SOCKET_BYTES) for k in range(4))
    port = filled([first, second, third, fourth])
    assert [port.take().movement for _ in range(4)] == [0, 1, 2, 3]
    assert not port
