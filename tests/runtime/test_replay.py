# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.replay import Ledger
from decnn_tvm.transfers import HOST
from tests.runtime.conftest import IMAGE, make_plan


def result(value: float) -> dict[str, np.ndarray]:
    return {"y": np.full(1, value, np.float32)}


def test_a_sample_has_one_result() -> None:
    ledger = Ledger()
    numbers = [ledger.submit(result(i)) for i in range(3)]
    assert numbers == [0, 1, 2] == ledger.under_way()
    ledger.settle(1, result(10))
    ledger.settle(1, result(11))
    assert ledger.under_way() == [0, 2]
    taken = ledger.take(1)
    assert taken is not None and taken["y"][0] == 10
    ledger.settle(1, result(12))
    assert ledger.take(1) is None
    ledger.drop(0)
    ledger.settle(0, result(1))
    assert ledger.take(0) is None and ledger.under_way() == [2] and ledger.next == 3


def test_the_inputs_are_a_copy() -> None:
    ledger, inputs = Ledger(), result(1)
    ledger.submit(inputs)
    inputs["y"][0] = 7
    assert ledger.inputs(0)["y"][0] == 1


def test_a_new_epoch_takes_the_samples_under_way_alone() -> None:
    plan, assignment = make_plan(), ((0, 1), (), (2, 3))
    host = Executor(plan, assignment, HOST, live=(4, 6), next_sample=7)
    x = {"x": np.ones(IMAGE, np.float32)}
    host.provide(4, x)
    host.provide(6, x)
    host.provide(7, x)
    assert {out.target for out in host.take_outgoing()} == {0, 2}
    for done in (0, 3, 5):
        assert host._open(done) is None
    for sample in (4, 6, 7):
        host.drop(sample)
    assert not host._closed and host._closed_below == 8
