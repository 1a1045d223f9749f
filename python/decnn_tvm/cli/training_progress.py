# SPDX-License-Identifier: Apache-2.0
"""How far a training is, on standard error."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from decnn_tvm.cli.compile import progress_bar

if TYPE_CHECKING:
    from decnn_tvm.training.trainer import ProgressCallback, TrainingProgress


@contextlib.contextmanager
def show_training() -> Iterator[ProgressCallback]:
    """Show a bar while the block runs or, where no person looks, a line for each epoch."""
    lines = 0 if not sys.stderr.isatty() else math.inf
    with progress_bar("reading and preparing") as show:

        def report(state: TrainingProgress) -> None:
            nonlocal lines
            if len(state.history) > lines:
                lines = len(state.history)
                print(_describe_epoch(state), file=sys.stderr, flush=True)
            done = len(state.history) + (
                state.step / state.steps if state.step < state.steps else 0
            )
            show(_describe(state), done, state.epochs)

        yield report


def _describe_epoch(state: TrainingProgress) -> str:
    last = state.history[-1]
    return (
        f"epoch {last.epoch} of {state.epochs}: loss {last.loss:.3f}, top-1 {last.accuracy:.2%}, "
        f"{last.seconds:.0f} s"
    )


def _describe(state: TrainingProgress) -> str:
    text = f"epoch {min(len(state.history) + 1, state.epochs)} of {state.epochs}"
    text += f", loss {state.loss:.3f}"
    if state.history:
        best = max(record.accuracy for record in state.history)
        text += f", top-1 {state.history[-1].accuracy:.2%} (best {best:.2%})"
    return text
