# SPDX-License-Identifier: Apache-2.0
"""How long a device's own stages take on ready data, and which kernels take it.

The stages run in turn, as they do for samples, until the time given is over, and what counts is the
mean: a board whose processor is held back at times (a quota, heat) is as slow as that makes it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from decnn_tvm.plan import Indices, Plan, Stage, Value
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.tensors import Array, aligned_empty

ROUNDS = 3
"""Rounds that are timed at least."""
KERNEL_ROUNDS = 3


def time_stages(
    library: StageLibrary, plan: Plan, groups: Indices, seconds: float
) -> list[dict[str, Any]]:
    """Run the stages of the owner of `groups` for about `seconds`.

    Returns
    -------
    list of dict
        For each stage ``function``, mean ``seconds``, mean ``processor_seconds``, and ``kernels``:
        the share of the stage's time by the name of the kernel.
    """
    own = [stage for stage in plan.stages if stage.runs_on(groups)]
    calls = [(stage, _ready(plan, stage, len(groups))) for stage in own]
    for stage, arrays in calls:
        library(stage.function, arrays)
    wall, processor = [0.0] * len(calls), [0.0] * len(calls)
    used, now = time.process_time(), time.perf_counter()
    rounds, end = 0, now + seconds
    while rounds < ROUNDS or now < end:
        for index, (stage, arrays) in enumerate(calls):
            start, before = now, used
            library(stage.function, arrays)
            # In this order: to ask for processor time is when a quota takes effect.
            used, now = time.process_time(), time.perf_counter()
            wall[index] += now - start
            processor[index] += used - before
        rounds += 1
    shares = [_kernel_shares(library, stage, arrays) for stage, arrays in calls]
    return [
        {
            "function": stage.function,
            "seconds": wall[index] / rounds,
            "processor_seconds": processor[index] / rounds,
            "kernels": shares[index],
        }
        for index, stage in enumerate(own)
    ]


def _ready(plan: Plan, stage: Stage, groups: int) -> list[Array]:
    return [drawn(plan.value(name), groups) for name in stage.inputs]


def drawn(value: Value, groups: int) -> Array:
    """Return a value with ordinary numbers: denormal ones would be slow to compute with."""
    random = np.random.default_rng(0)
    array = aligned_empty(value.physical_shape(groups), value.dtype)
    floating = np.issubdtype(array.dtype, np.floating)
    array[...] = random.random(array.shape) if floating else random.integers(0, 100, array.shape)
    return array


def _kernel_shares(
    library: StageLibrary, stage: Stage, arrays: Sequence[Array]
) -> dict[str, float]:
    """Return each kernel's share of the time in kernels; the names are the compiler's."""
    spent: dict[str, float] = {}
    for _ in range(KERNEL_ROUNDS):
        for name, seconds in library.kernel_seconds(stage.function, arrays):
            spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values()) or 1.0
    return {name: seconds / total for name, seconds in spent.items()}
