# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

from decnn_tvm.runtime.fair_lock import FairLock


def test_a_thread_in_a_loop_lets_another_in() -> None:
    """With a plain lock the loop below may run for thousands of rounds before the other enters."""
    lock, entered, waiting = FairLock(), threading.Event(), threading.Event()
    rounds = 0

    def enter() -> None:
        waiting.set()
        with lock:
            entered.set()

    other = threading.Thread(target=enter)
    with lock:
        other.start()
        assert waiting.wait(10)
        while not lock.wanted:
            pass
    while not entered.is_set() and rounds < 100:
        with lock:
            rounds += 1
    other.join(10)
    assert entered.is_set() and rounds <= 1


def test_the_owner_enters_again_while_another_waits() -> None:
    lock, entered = FairLock(), threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    other = threading.Thread(target=enter)
    with lock:
        other.start()
        while not lock.wanted:
            pass
        with lock:
            assert not entered.is_set()
        assert not entered.is_set()
    other.join(10)
    assert entered.is_set()
