# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from decnn_tvm.runtime.inbox import Inbox
from decnn_tvm.runtime.wire import ERROR, Header, Message, WireError

LONG, SHORT = 30.0, 0.05


def message(sample: int, movement: int = 0) -> Message:
    header = Header(
        cluster=bytes(16), epoch=0, sample=sample, movement=movement, source=0, target=1
    )
    return Message(header, ())


class Reader:
    """Waits in a thread of its own."""

    def __init__(self, inbox: Inbox, pool: ThreadPoolExecutor) -> None:
        self.inbox, self._pool = inbox, pool

    def get(self, enough: int) -> Future[Message | WireError | None]:
        waits = threading.Event()
        holds = self.inbox._holds

        def watched(count: int) -> bool:
            waits.set()
            return holds(count)

        self.inbox._holds = watched  # type: ignore[method-assign]
        call = self._pool.submit(self.inbox.get, LONG, enough)
        assert waits.wait(LONG)
        return call


@pytest.fixture
def reader() -> Iterator[Reader]:
    with ThreadPoolExecutor(1) as pool:
        yield Reader(Inbox(), pool)


def test_what_is_there_comes_in_order() -> None:
    inbox = Inbox()
    assert inbox.get(0.0) is None and inbox.get(SHORT) is None
    first, second = message(1), message(2)
    inbox.put(first)
    inbox.put(second)
    assert inbox.get(0.0) is first and inbox.get(LONG) is second and inbox.get(0.0) is None


def test_a_reader_waits_for_as_many_as_it_needs(reader: Reader) -> None:
    call = reader.get(3)
    reader.inbox.put(message(0))
    reader.inbox.put(message(1))
    assert wait([call], SHORT).not_done
    reader.inbox.put(message(2))
    got = call.result(LONG)
    assert isinstance(got, Message) and got.header.sample == 0
    assert reader.inbox.get(LONG, 2) is not None and reader.inbox.get(LONG) is not None


def test_too_few_come_when_the_time_is_up() -> None:
    inbox, only = Inbox(), message(0)
    inbox.put(only)
    assert inbox.get(SHORT, 5) is only


@pytest.mark.parametrize("item", [None, WireError("no such peer"), message(0, ERROR)])
def test_a_failure_is_told_at_once_behind_what_came_before(reader: Reader, item) -> None:
    call = reader.get(5)
    before = message(7)
    reader.inbox.put(before)
    reader.inbox.put(item)
    assert call.result(LONG) is before
    assert reader.inbox.get(LONG, 5) is item
    assert reader.inbox.get(SHORT, 5) is None
    reader.inbox.put(before)
    assert not reader.inbox._holds(5)
