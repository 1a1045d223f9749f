# SPDX-License-Identifier: Apache-2.0
"""The same call to several workers at once, looked after while it lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from decnn_tvm.errors import ClusterError

T = TypeVar("T")

LOOK = 0.05
"""Seconds between two looks at the workers."""


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """Results and errors by rank."""

    results: Mapping[int, T]
    errors: Mapping[int, Exception]


def call_all(
    ranks: Sequence[int],
    action: Callable[[int, threading.Event], T],
    look: Callable[[list[int]], None],
    *,
    all_or_none: bool,
) -> Answers[T]:
    """Call ``action(rank, cancelled)`` for all ranks at once.

    Parameters
    ----------
    ranks : sequence of int
        The workers.
    action : callable
        What to do with one; it ends early where `cancelled` is set.
    look : callable
        Called again and again with the ranks that have not answered; it may hang up on them.
    all_or_none : bool
        Whether the first error cancels the others.
    """
    if not ranks:
        return Answers({}, {})
    cancelled = threading.Event()
    with ThreadPoolExecutor(len(ranks)) as pool:
        calls = {rank: pool.submit(action, rank, cancelled) for rank in ranks}
        try:
            while wait(calls.values(), LOOK).not_done:
                look([rank for rank, call in calls.items() if not call.done()])
                failed = any(call.done() and call.exception() for call in calls.values())
                if all_or_none and failed:
                    cancelled.set()
        except BaseException:
            # An interrupt must not wait for uploads that nobody needs any more.
            cancelled.set()
            raise
    errors = {rank: call.exception() for rank, call in calls.items()}
    return Answers(
        {rank: call.result() for rank, call in calls.items() if errors[rank] is None},
        {rank: error for rank, error in errors.items() if isinstance(error, Exception)},
    )


def raise_first(failures: Mapping[int, Exception], cause: Callable[[int], str]) -> None:
    """Raise one of these errors, if there are any.

    Parameters
    ----------
    failures : mapping of rank to Exception
        What went wrong.
    cause : callable
        Gives the sentence on a worker that has gone, which says more; empty where it is there.
    """
    for rank, error in failures.items():
        if isinstance(error, ClusterError) and (why := cause(rank)):
            raise ClusterError(why) from error
    told = [error for error in failures.values() if "was cancelled" not in str(error)]
    for error in told or failures.values():
        raise error
