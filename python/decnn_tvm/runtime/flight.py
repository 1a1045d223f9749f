# SPDX-License-Identifier: Apache-2.0
"""The samples under way, through all epochs.

A new epoch begins where devices are lost, have come back or stay slow, or frames got lost. It has
a new executor and a new link; the samples without a result begin again from the copies of their
inputs. So one that is not needed waits for the oldest sample under way: a worker that comes and
goes all the time must not keep long samples from their end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from decnn_tvm.errors import ClusterError
from decnn_tvm.plan import Plan
from decnn_tvm.runtime.devices import Devices
from decnn_tvm.runtime.engine import Counters
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.replay import Arrays, Ledger
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.runtime.wire import ERROR, Message, WireError
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

FRUITLESS = 10
"""New epochs on end, by losses, without a result after which nothing more is tried."""
POSTPONED = 60.0
"""Seconds that a new epoch which is not needed waits for the oldest sample under way, at most."""


class Flight:
    """The coordinator's part of the work; one thread at a time may use it.

    Parameters
    ----------
    plan : Plan
        The network.
    devices : Devices
        The devices; the first epoch begins here.
    clock : callable
        Seconds.
    """

    def __init__(
        self, plan: Plan, devices: Devices, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counters = Counters()
        self._clock = clock
        self._plan, self._devices = plan, devices
        self._ledger = Ledger()
        self._fruitless = 0
        self._before: int | None = None
        self._latest = 0.0
        self._begin([])

    def submit(self, inputs: Arrays) -> int:
        """Start a sample; return its number."""
        # A copy: the caller may reuse its array while the network still sends from it.
        number = self._ledger.submit(inputs)
        self._provide([number])
        return number

    def result(self, sample: int) -> dict[str, Array] | None:
        """Return the outputs of a sample, once; None while they miss."""
        self._collect([sample])
        result = self._ledger.take(sample)
        if result is not None:
            self._fruitless = 0
        return result

    def drop(self, samples: Iterable[int]) -> None:
        """Forget samples; what still comes for them is ignored."""
        for sample in samples:
            self._executor.drop(sample)
            self._ledger.drop(sample)

    def missing(self, sample: int) -> list[int]:
        """Return the ranks whose part of a sample has not come."""
        return self._executor.missing(sample)

    def receive(self, sample: int | None, timeout: float) -> Message | WireError | None:
        """Return the next message, why it is unusable, or None after `timeout` seconds.

        Where only the result of `sample` is waited for, there can be none before all that miss are
        heard; with None any message is wanted at once.
        """
        enough = 1 if sample is None else max(1, len(self.missing(sample)))
        try:
            return self._link.receive(timeout, enough)
        except WireError as error:
            return error

    def advance(self, message: Message | WireError | None) -> bool:
        """Take in a message and look after the devices; return whether anything happened.

        Raises
        ------
        ClusterError
            A device is lost or has failed, and the others can't go on without it.
        """
        reason = self._take(message)
        reason = reason or self._devices.look()
        if reason:
            self._fruitless += 1
            if self._fruitless > FRUITLESS:
                raise ClusterError(
                    f"{FRUITLESS} new epochs gave no result. The last cause: {reason}."
                )
        else:
            reason = self._granted(self._devices.wish())
        if reason:
            self.renew(reason)
        return message is not None or bool(reason)

    def renew(self, reason: str) -> None:
        """Go on in a new epoch."""
        logger.warning("a new epoch: %s", reason)
        # What is complete needs no replay, also where nobody has asked for it yet.
        self._collect(self._ledger.under_way())
        live = self._ledger.under_way()
        self._begin(live)
        self._provide(live)

    def _granted(self, wish: str) -> str:
        """Return what is wished for, once the sample is done that was the oldest at first."""
        if not wish:
            self._before = None
            return ""
        if self._before is None:
            self._before = next(iter(self._ledger.under_way()), -1)
            self._latest = self._clock() + POSTPONED
        self._collect([self._before])
        done = self._before not in self._ledger.under_way()
        return wish if done or self._clock() > self._latest else ""

    def _begin(self, live: Sequence[int]) -> None:
        following, self._before = self._ledger.next, None
        self._link = self._devices.form(live, following)
        assignment = self._devices.assignment
        self._executor = Executor(self._plan, assignment, HOST, live=live, next_sample=following)

    def _provide(self, samples: Iterable[int]) -> None:
        for sample in samples:
            self._executor.provide(sample, self._ledger.inputs(sample))
        self._link.flush(self._executor, self.counters)

    def _collect(self, samples: Iterable[int]) -> None:
        for sample in samples:
            result = self._executor.take_result(sample)
            if result is not None:
                self._ledger.settle(sample, result)
                self._devices.delivered()

    def _take(self, message: Message | WireError | None) -> str:
        """Take in a message; return why that could not be done, if so."""
        if message is None:
            return ""
        try:
            if isinstance(message, WireError):
                raise message
            if message.header.movement == ERROR:
                text = b"".join(message.payload).decode(errors="replace")
                self._devices.failed(message.header.source, text)
            else:
                self._executor.accept(message)
        except WireError as error:
            return str(error)
        return ""
