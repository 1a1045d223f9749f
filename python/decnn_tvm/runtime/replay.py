# SPDX-License-Identifier: Apache-2.0
"""Samples from their submission to the delivery of their results, whatever happens between.

The coordinator keeps a copy of the inputs until the result is there, so that a new epoch can
start a sample again. A sample has one result: what comes later for it is not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from decnn_tvm.runtime.tensors import Array

Arrays = Mapping[str, Array]


class Ledger:
    """The samples of a session.

    Attributes
    ----------
    next : int
        The number of the next sample.
    """

    def __init__(self) -> None:
        self.next = 0
        self._inputs: dict[int, dict[str, Array]] = {}
        self._results: dict[int, dict[str, Array]] = {}

    def submit(self, inputs: Arrays) -> int:
        """Keep a copy of the inputs of a new sample; return its number."""
        number, self.next = self.next, self.next + 1
        self._inputs[number] = {name: array.copy() for name, array in inputs.items()}
        return number

    def inputs(self, number: int) -> dict[str, Array]:
        """Return the inputs of a sample that is under way."""
        return self._inputs[number]

    def settle(self, number: int, result: dict[str, Array]) -> None:
        """Note the result of a sample; one that is not under way any more has no use for it."""
        if self._inputs.pop(number, None) is not None:
            self._results[number] = result

    def take(self, number: int) -> dict[str, Array] | None:
        """Return the result of a sample, once; None while it is not there."""
        return self._results.pop(number, None)

    def drop(self, number: int) -> None:
        """Forget a sample."""
        self._inputs.pop(number, None)
        self._results.pop(number, None)

    def under_way(self) -> list[int]:
        """Return the samples without a result, oldest first: what a new epoch must replay."""
        return sorted(self._inputs)
