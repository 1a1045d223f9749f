# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np

from decnn_tvm.assignment import assign_groups
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.route import largest_messages
from decnn_tvm.runtime.steps import oldest_first
from decnn_tvm.runtime.tensors import aligned
from decnn_tvm.runtime.wire import Header, Message
from decnn_tvm.transfers import HOST
from tests.runtime.conftest import ACTIVATION, CHANNELS, CLASSES, IMAGE, make_plan


def test_the_largest_message_from_each() -> None:
    plan = make_plan()
    assignment = assign_groups(plan, 2, (3, 1))
    image = 4 * int(np.prod(IMAGE))
    pixels = 4 * int(np.prod(ACTIVATION)) // CHANNELS
    # 3 of rank 0's 12 channels are for rank 1's group, and 3 of rank 1's 4 channels for rank 0.
    assert largest_messages(plan, assignment, 0) == {HOST: image, 1: 3 * pixels}
    assert largest_messages(plan, assignment, 1) == {HOST: image, 0: 3 * pixels}
    assert largest_messages(plan, assignment, HOST) == {0: 4 * CLASSES, 1: 4 * CLASSES}


def test_the_next_stage_is_the_oldest_of_those_that_are_ready() -> None:
    """In any order in which messages of several samples come, with samples dropped between."""
    plan = make_plan()
    assignment = assign_groups(plan, 4)
    for seed in range(20):
        shuffle = random.Random(seed)
        executor = Executor(plan, assignment, 0)
        values = {value.name: value for value in plan.values}
        mail = [
            (sample, move, transfer)
            for sample in range(6)
            for move in executor._route(sample).moves.values()
            for transfer in move.incoming
            if transfer.source != 0
        ]
        shuffle.shuffle(mail)
        dropped = shuffle.randrange(6)
        for number, (sample, move, transfer) in enumerate(mail):
            size = sum(run.length for run in transfer.runs)
            shape = values[move.source].shape
            elements = size * int(np.prod(shape)) // shape[transfer.axis]
            header = Header(
                cluster=b"", epoch=0, sample=sample, movement=move.index,
                source=transfer.source, target=0,
            )  # fmt: skip
            executor.accept(Message(header, (memoryview(bytes(4 * elements)),)))
            if number == len(mail) // 2:
                executor.drop(dropped)
            expected = oldest_first(
                (open_, stage)
                for open_, state in executor._samples.items()
                for stage in state.stages
                if all(name in state.values for name in plan.stages[stage].inputs)
            )
            assert executor.next_stage() == expected
            if expected is not None and shuffle.random() < 0.5:
                outputs = [values[name] for name in plan.stages[expected[1]].outputs]
                arrays = [aligned(np.zeros(v.physical_shape(1), v.dtype)) for v in outputs]
                executor.run(*expected, lambda function, inputs, made=arrays: made)
        while (ready := executor.next_stage()) is not None:
            outputs = [values[name] for name in plan.stages[ready[1]].outputs]
            arrays = [aligned(np.zeros(v.physical_shape(1), v.dtype)) for v in outputs]
            executor.run(*ready, lambda function, inputs, made=arrays: made)
        assert executor.open_samples == 0
