# SPDX-License-Identifier: Apache-2.0
"""A session: samples in, results out, in order, with a bounded number under way.

The thread that waits for a result also looks after the devices: where one is lost, has come back
or stays slow, it brings all into a new epoch and sends the samples under way again.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from numbers import Integral
from types import TracebackType
from typing import TypeAlias

from decnn_tvm.errors import ClusterError, ClusterTimeout, InputError
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.devices import Devices
from decnn_tvm.runtime.executor import MAX_OPEN
from decnn_tvm.runtime.fair_lock import FairLock
from decnn_tvm.runtime.flight import Flight
from decnn_tvm.runtime.samples import NanPolicy, check_policy, check_sample
from decnn_tvm.runtime.statistics import (
    DeviceStats,
    EventKind,
    TimelineEvent,
    device_stats,
    timeline_events,
)
from decnn_tvm.runtime.steps import check_host
from decnn_tvm.runtime.tensors import Array

Sample: TypeAlias = "Array | Mapping[str, Array]"
Result: TypeAlias = "Array | dict[str, Array]"

POLL = 0.05
"""Seconds between two looks at the devices while nothing comes."""

STAGES: tuple[EventKind, ...] = ("compute",)


class Session:
    """A deployed network; made by ``deploy``.

    Use it in a ``with`` block. Calls from several threads take turns; those from a process that was
    forked are refused.

    Parameters
    ----------
    plan : Plan
        The network.
    devices : Devices
        The devices.
    timeout : float
        Seconds without any message after which a wait ends in `ClusterTimeout`.
    """

    def __init__(self, plan: Plan, devices: Devices, timeout: float) -> None:
        check_host(plan)
        self.plan = plan
        self._devices, self._timeout = devices, timeout
        self._lock = FairLock()
        self._flight = Flight(plan, devices)
        self._failure: str | None = None
        self._closed = False

    def run(self, sample: Sample, *, nan: str = "raise") -> Result:
        """Compute one sample.

        Parameters
        ----------
        sample : array, or mapping of input names to arrays
            The inputs, of exactly the network's shapes and dtypes; nothing is cast.
        nan : {"raise", "allow"}
            Whether NaN in an input is refused.

        Returns
        -------
        array, or dict of arrays where the network has several outputs

        Raises
        ------
        InputError
            The sample does not fit.
        ClusterError
            A device failed, died, or gave no answer in time (`ClusterTimeout`).
        """
        number = self._submit(sample, check_policy(nan))
        try:
            return self._wait(number)
        finally:
            self._drop([number])

    def stream(
        self, samples: Iterable[Sample], *, in_flight: int = 4, nan: str = "raise"
    ) -> Iterator[Result]:
        """Compute samples, at most `in_flight` at a time, and yield their results in order.

        A sample is taken from `samples` only when there is room for it. Parameters and errors
        are otherwise those of `run`.
        """
        policy = check_policy(nan)
        if not isinstance(in_flight, Integral) or not 1 <= in_flight <= MAX_OPEN:
            raise InputError(f"in_flight={in_flight!r}: expected a number, 1 to {MAX_OPEN}.")
        return self._stream(iter(samples), in_flight, policy)

    def stats(self) -> list[DeviceStats]:
        """Return what each device did since the session began; nothing of one that is lost."""
        with self._lock:
            self._check_open()
            return [
                device_stats(self.plan, rank, name, groups, self._devices.status(rank))
                for rank, (name, groups) in enumerate(
                    zip(self._devices.names, self.assignment, strict=True)
                )
            ]

    def timeline(self, *, kinds: Collection[EventKind] = STAGES) -> list[TimelineEvent]:
        """Return what all devices did lately, by start, on the clock of this process.

        Parameters
        ----------
        kinds : collection of {"compute", "wait", "send", "receive"}
            What to return; by default the runs of stages.
        """
        with self._lock:
            self._check_open()
            ranks = range(len(self.assignment))
            events = [event for rank in ranks for event in self._events(rank)]
            chosen = (event for event in events if event.kind in kinds)
            return sorted(chosen, key=lambda event: event.start)

    def _events(self, rank: int) -> list[TimelineEvent]:
        status = self._devices.status(rank)
        offset = self._devices.clock_offset(rank) if status["timeline"] else 0.0
        return timeline_events(rank, status, offset)

    @property
    def assignment(self) -> tuple[Indices, ...]:
        """Channel groups by rank, now; none for a device that is lost or a spare."""
        return tuple(self._devices.assignment)

    def add_worker(self, address: str) -> None:
        """Take in another worker, or a lost one that has come back, while the session goes on.

        It gets channel groups of the others, or is a spare where there are none to give.

        Parameters
        ----------
        address : str
            ``host:port`` of its control plane.

        Raises
        ------
        ClusterError
            No worker answers there, or it is busy.
        PackageError
            The package does not fit it.
        """
        with self._lock:
            self._check_open()
            self._devices.add(address)
            with self._whole_or_failed():
                self._flight.renew(f"a worker at {address} was added")

    @property
    def sent_bytes(self) -> dict[str, int]:
        """Bytes that the coordinator sent, headers included, for each movement."""
        names = [str(movement) for movement in self.plan.movements]
        return {names[i]: count for i, count in self._flight.counters.sent_bytes.items()}

    @property
    def usable(self) -> bool:
        """Whether the session is open and has not failed."""
        return not self._closed and self._failure is None

    def close(self) -> None:
        """End the session on every device; further calls fail. A forked process ends nothing."""
        if self._lock.foreign:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._devices.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(
        self, samples: Iterator[Sample], in_flight: int, policy: NanPolicy
    ) -> Iterator[Result]:
        window: deque[int] = deque()
        try:
            more = True
            while more or window:
                while more and len(window) < in_flight:
                    try:
                        window.append(self._submit(next(samples), policy))
                    except StopIteration:
                        more = False
                if window:
                    result = self._wait(window[0])
                    window.popleft()
                    yield result
        finally:
            self._drop(window)

    def _drop(self, samples: Iterable[int]) -> None:
        """Forget samples; what still comes for them is ignored."""
        if self._lock.foreign:
            return
        with self._lock:
            self._flight.drop(samples)

    def _submit(self, sample: Sample, policy: NanPolicy) -> int:
        inputs = check_sample(self.plan, sample, policy)
        with self._lock:
            self._check_open()
            with self._whole_or_failed():
                return self._flight.submit(inputs)

    @contextlib.contextmanager
    def _whole_or_failed(self) -> Iterator[None]:
        """Fail the session where an interrupt or error cuts a message in two."""
        try:
            yield
        except BaseException as error:
            self._failure = str(error) or f"{type(error).__name__} while a message was under way."
            raise

    def _wait(self, sample: int) -> Result:
        deadline = time.monotonic() + self._timeout
        while True:
            with self._lock:
                self._check_open()
                result = self._flight.result(sample)
                if result is not None:
                    return result if len(result) > 1 else result[self.plan.outputs[0]]
                if self._pump(sample):
                    deadline = time.monotonic() + self._timeout
                elif time.monotonic() > deadline:
                    self._time_out(sample)

    def _pump(self, sample: int) -> bool:
        """Take in one message and look after the devices; return whether anything happened."""
        # The next in line waits for another result, which any message may complete.
        message = self._flight.receive(None if self._lock.wanted else sample, POLL)
        with self._whole_or_failed():
            return self._flight.advance(message)

    def _time_out(self, sample: int) -> None:
        missing = self._flight.missing(sample)
        names = ", ".join(self._devices.names[rank] for rank in missing)
        self._failure = (
            f"sample {sample}: no result from {names} within {self._timeout:g} s. "
            f"{self._devices.explain(missing)}"
        )
        raise ClusterTimeout(self._failure)

    def _check_open(self) -> None:
        if self._closed:
            raise ClusterError("the session is closed. Deploy the package again.")
        if self._failure is not None:
            raise ClusterError(f"the session has failed: {self._failure} Deploy the package again.")
