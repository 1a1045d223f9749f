# SPDX-License-Identifier: Apache-2.0
"""Movements of made-up plans against a scatter and gather written with NumPy alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import PackageError
from decnn_tvm.plan import (
    PAD,
    Host,
    Movement,
    Partial,
    Placement,
    Plan,
    Replicated,
    Sharded,
    Stage,
    Value,
)
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.tensors import aligned
from decnn_tvm.runtime.wire import Header, Message, WireError
from decnn_tvm.transfers import HOST

Array = npt.NDArray[np.float32]


def exchange_plan(
    source: Placement, target: Placement, shape: tuple[int, ...], groups: int, block: int = 1
) -> Plan:
    """Every device makes `a`, it is moved to `b`, and every device consumes that."""

    def value(name: str, shape: tuple[int, ...], placement: Placement, block: int = 1) -> Value:
        return Value(name=name, shape=shape, dtype="float32", placement=placement, block=block)

    return Plan(
        model="made up",
        groups=groups,
        decoupled=False,
        inputs=("x",),
        outputs=("y",),
        values=(
            value("x", (1,), Host()),
            value("go", (1,), Replicated()),
            value("a", shape, source, block),
            value("b", shape, target, block),
            value("done", (1,), Partial()),
            value("y", (1,), Host()),
        ),
        weights=(),
        stages=(
            Stage(function="make", inputs=("go",), weights=(), outputs=("a",)),
            Stage(function="take", inputs=("b",), weights=(), outputs=("done",)),
        ),
        movements=(
            Movement(source="x", target="go", kind="input"),
            Movement(source="a", target="b", kind="made up"),
            Movement(source="done", target="y", kind="output"),
        ),
    )


def held(placement: Placement, whole: Array, groups: Sequence[int]) -> Array:
    """Return what a device with `groups` holds of a tensor: NumPy's take, zeros for padding."""
    if not isinstance(placement, Sharded):
        return whole
    indices = np.array([i for g in groups for i in placement.groups[g]])
    part = np.take(whole, np.maximum(indices, 0), placement.axis)
    shape = [1] * whole.ndim
    shape[placement.axis] = -1
    return np.where((indices == PAD).reshape(shape), np.float32(0), part)


def to_blocks(array: Array, block: int) -> Array:
    if block == 1:
        return np.ascontiguousarray(array)
    n, c, h, w = array.shape
    return np.ascontiguousarray(array.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2))


def exchange(plan: Plan, shares: Sequence[int], whole: Array, seed: int) -> None:
    """Move `a` to `b` with messages in a random order, and check what every device gets."""
    assignment = assign_groups(plan, len(shares), shares)
    source, target = plan.value("a"), plan.value("b")
    shuffle = random.Random(seed)
    devices = range(len(shares))
    noise = np.random.default_rng(seed)
    if isinstance(source.placement, Partial):
        parts = [noise.standard_normal(whole.shape).astype(np.float32) for _ in devices]
        total = np.zeros_like(whole)
        for part in parts:
            total += part
        whole = total
    else:
        parts = [held(source.placement, whole, groups) for groups in assignment]
    seen: dict[int, Array] = {}
    executors = {rank: Executor(plan, assignment, rank) for rank in (HOST, *devices)}

    def run(rank: int, function: str, inputs: Sequence[Array]) -> list[Array]:
        if function == "make":
            return [aligned(to_blocks(parts[rank], source.block))]
        seen[rank] = inputs[0]
        return [np.ones(1, np.float32)]

    executors[HOST].provide(0, {"x": aligned(np.ones(1, np.float32))})
    mail: list[tuple[int, Message]] = []
    while True:
        for rank, executor in executors.items():
            while (ready := executor.next_stage()) is not None:
                executor.run(*ready, lambda f, i, rank=rank: run(rank, f, i))
            for out in executor.take_outgoing():
                header = Header(
                    cluster=b"",
                    epoch=0,
                    sample=0,
                    movement=out.movement,
                    source=rank,
                    target=out.target,
                )
                payload = tuple(memoryview(bytes(part)) for part in out.payload)
                mail.append((out.target, Message(header, payload)))
        if not mail:
            break
        receiver, message = mail.pop(shuffle.randrange(len(mail)))
        assert executors[receiver].accept(message)
    result = executors[HOST].take_result(0)
    assert result is not None and result["y"] == len(shares)
    for rank, groups in enumerate(assignment):
        expected = to_blocks(held(target.placement, whole, groups), target.block)
        np.testing.assert_array_equal(seen[rank], expected)
        assert seen[rank].ctypes.data % 64 == 0
        assert executors[rank].open_samples == 0


def contiguous(channels: int, groups: int, axis: int = 1) -> Sharded:
    size = -(-channels // groups)
    rows = [range(g * size, (g + 1) * size) for g in range(groups)]
    return Sharded(axis, tuple(tuple(i if i < channels else PAD for i in row) for row in rows))


def interleaved(channels: int, groups: int) -> Sharded:
    return Sharded(1, tuple(tuple(range(g, channels, groups)) for g in range(groups)))


def blocks_dealt(channels: int, groups: int, block: int) -> Sharded:
    """Deal blocks of channels to groups like cards."""
    dealt = [
        tuple(
            c
            for first in range(g * block, channels, groups * block)
            for c in range(first, first + block)
        )
        for g in range(groups)
    ]
    return Sharded(1, tuple(dealt))


OVERLAP = Sharded(
    1, tuple(tuple(range(max(0, 3 * g - 1), max(0, 3 * g - 1) + 5)) for g in range(4))
)

CASES = {
    "all-to-all": (contiguous(16, 4), interleaved(16, 4), 16),
    "all-gather": (contiguous(16, 4), Replicated(), 16),
    "all-gather with padding": (contiguous(14, 4), Replicated(), 14),
    "into padding": (interleaved(16, 4), contiguous(16, 4), 16),
    "a group of padding alone": (contiguous(9, 4), contiguous(9, 4), 9),
    "reduce-scatter": (Partial(), contiguous(14, 4), 14),
    "all-reduce": (Partial(), Replicated(), 7),
    "overlap": (contiguous(16, 4), OVERLAP, 16),
    "from overlap": (OVERLAP, contiguous(13, 4), 13),
    "slice of a replica": (Replicated(), interleaved(16, 4), 16),
    "nothing to do": (interleaved(16, 4), interleaved(16, 4), 16),
}


@pytest.mark.parametrize("shares", [(4,), (2, 2), (1, 3), (2, 1, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_movements_equal_scatter_and_gather(case: str, batch: int, shares) -> None:
    source, target, channels = CASES[case]
    shape = (batch, channels, 3, 2)
    whole = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    exchange(exchange_plan(source, target, shape, 4), shares, whole, seed=len(case) + batch)


@pytest.mark.parametrize("shares", [(4,), (3, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_blocked_tensors(batch: int, shares) -> None:
    shape = (batch, 64, 3, 2)
    whole = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    plan = exchange_plan(contiguous(64, 4), blocks_dealt(64, 4, 4), shape, 4, block=4)
    exchange(plan, shares, whole, seed=1)


def test_rows_move_along_another_axis() -> None:
    shape = (2, 3, 12, 5)
    halo = Sharded(
        2, tuple(tuple(range(max(0, 3 * g - 1), max(0, 3 * g - 1) + 4)) for g in range(4))
    )
    whole = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    exchange(exchange_plan(contiguous(12, 4, axis=2), halo, shape, 4), (2, 2), whole, seed=1)


def test_a_transfer_that_cuts_a_block_is_refused() -> None:
    plan = exchange_plan(contiguous(16, 4), interleaved(16, 4), (1, 16, 2, 2), 4, block=4)
    with pytest.raises(PackageError, match="cuts a block of 4"):
        Executor(plan, ((0, 1), (2, 3)), 0)


def message(movement: int, source: int, payload: bytes, sample: int = 0) -> Message:
    header = Header(cluster=b"", epoch=0, sample=sample, movement=movement, source=source, target=0)
    return Message(header, (memoryview(payload),))


def test_wrong_messages_are_refused() -> None:
    plan = exchange_plan(contiguous(16, 4), Replicated(), (1, 16, 1, 1), 4)
    executor = Executor(plan, ((0, 1), (2, 3)), 0)
    executor.accept(message(1, 1, bytes(32)))
    with pytest.raises(WireError, match="came twice"):
        executor.accept(message(1, 1, bytes(32)))
    with pytest.raises(WireError, match="payload of 31 bytes; expected 32"):
        executor.accept(message(1, 1, bytes(31), sample=1))
    with pytest.raises(WireError, match="no such transfer"):
        executor.accept(message(1, 0, bytes(32)))
    with pytest.raises(WireError, match="no such transfer"):
        executor.accept(message(9, 1, bytes(32)))
    with pytest.raises(WireError, match="never started"):
        Executor(plan, ((0, 1), (2, 3)), HOST).accept(message(2, 0, bytes(4)))


def test_a_finished_sample_ignores_what_comes_late() -> None:
    plan = exchange_plan(contiguous(16, 4), Replicated(), (1, 16, 1, 1), 4)
    executor = Executor(plan, ((0, 1), (2, 3)), 0)
    executor.drop(0)
    assert not executor.accept(message(1, 1, bytes(32)))
    assert executor.open_samples == 0
