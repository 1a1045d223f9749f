# SPDX-License-Identifier: Apache-2.0
"""How a value comes together from the parts that movements bring.

Parts are written to their place as they come. Summands of a partial sum are kept until all are
there and added in float32 in the order of their senders, so that the result does not depend on
who was faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Value
from decnn_tvm.runtime.steps import Move
from decnn_tvm.runtime.tensors import (
    Array,
    Moved,
    aligned_empty,
    aligned_zeros,
    padding_of,
    pieces_of,
)
from decnn_tvm.runtime.wire import WireError
from decnn_tvm.transfers import Run, Transfer


@dataclass(frozen=True, slots=True)
class Look:
    """How a transfer sees the tensor it reads and the tensor it writes."""

    source: Moved
    target: Moved

    @staticmethod
    def of(
        values: Mapping[str, Value], counts: Mapping[int, int], move: Move, transfer: Transfer
    ) -> Look:
        """Check a transfer against both tensors; `counts` holds the groups of each rank.

        Raises
        ------
        PackageError
            The layouts do not go together, or a run cuts a block.
        """
        source = Moved(values[move.source], counts[transfer.source], transfer.axis)
        target = Moved(values[move.target], counts[transfer.target], transfer.axis)
        if (
            source.value.block != target.value.block
            or source.view_shape[::2] != target.view_shape[::2]
        ):
            raise PackageError(
                f"plan: {move.source!r} -> {move.target!r}: layouts {source.shape} and "
                f"{target.shape} differ beyond the moved axis. Compile the package again."
            )
        for run in transfer.runs:
            source.span(run.source, run.length)
            target.span(run.target, run.length)
        return Look(source, target)

    def is_identity(self, transfer: Transfer) -> bool:
        """Tell whether a local copy would change nothing, so that the array itself serves."""
        source, target = self.source, self.target
        length = source.view_shape[1] * source.block
        same = source.shape == target.shape and source.value.dtype == target.value.dtype
        return same and [(r.source, r.target, r.length) for r in transfer.runs] == [(0, 0, length)]


class Arrival:
    """A value on its way to a rank, of which parts are missing.

    Attributes
    ----------
    missing : set of int
        Ranks whose parts have not come.
    """

    def __init__(self, move: Move) -> None:
        self.missing = {transfer.source for transfer in move.incoming}
        self._move = move
        self._buffer: Array | None = None
        self._summands: dict[int, list[tuple[slice, Array]]] = {}

    def add(self, transfer: Transfer, look: Look, payload: Sequence[memoryview]) -> None:
        """Take in the part that `transfer` brings.

        Raises
        ------
        WireError
            It came before, or has the wrong size.
        """
        if transfer.source not in self.missing:
            raise WireError(f"{self._move.target}: the part from {transfer.source} came twice")
        self._put(transfer, look, pieces_of(look.source, payload, transfer.runs))

    def copy(self, transfer: Transfer, look: Look, array: Array) -> None:
        """Take in this rank's own part of `array`."""
        view = look.source.view(array)
        runs = transfer.runs
        self._put(
            transfer, look, [(r, view[:, look.source.span(r.source, r.length)]) for r in runs]
        )

    def value(self, target: Moved) -> Array:
        """Return the value; nothing may be missing."""
        assert not self.missing
        if self._buffer is not None:
            return self._buffer
        total = aligned_zeros(target.shape, "float32")
        view = target.view(total)
        for rank in sorted(self._summands):
            for span, piece in self._summands[rank]:
                view[:, span] += piece
        return total if target.value.dtype == "float32" else total.astype(target.value.dtype)

    def _put(self, transfer: Transfer, look: Look, parts: Sequence[tuple[Run, Array]]) -> None:
        pieces = [(look.target.span(run.target, run.length), part) for run, part in parts]
        if transfer.reduce:
            self._summands[transfer.source] = pieces
        else:
            self._write(look.target, pieces)
        self.missing.discard(transfer.source)

    def _write(self, target: Moved, pieces: Sequence[tuple[slice, Array]]) -> None:
        if self._buffer is None:
            self._buffer = self._make_buffer(target)
        view = target.view(self._buffer)
        for span, piece in pieces:
            view[:, span] = piece

    def _make_buffer(self, target: Moved) -> Array:
        """Return a buffer for the value; full of padding where some of it stays unwritten."""
        filled = sum(run.length for t in self._move.incoming for run in t.runs)
        full = filled == target.view_shape[1] * target.block
        if full:
            return aligned_empty(target.shape, target.value.dtype)
        return padding_of(target.value, target.shape)
