# SPDX-License-Identifier: Apache-2.0
"""A user's own passes and schedule rules: that they are used, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import relax, s_tir
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.script import tirx as T

from decnn_tvm.compiler import compile_network
from decnn_tvm.custom_passes import apply_passes
from decnn_tvm.errors import CompileError
from decnn_tvm.network import Network
from decnn_tvm.schedules.custom_rules import ApplyScheduleRules
from tests.modules import drawn, network

op = relax.op


@pytest.fixture(scope="module")
def tiny() -> Network:
    def body(emit: Any, x: Any, w: Any) -> Any:
        return op.mean(emit(op.nn.relu(emit(op.nn.conv2d(x, w)))), [2, 3])

    return Network("tiny", network(body, (1, 3, 6, 6), weights={"w": drawn(8, 3, 3, 3)}))


@T.prim_func(s_tir=True)
def other(a: T.Buffer((3,), "float32"), b: T.Buffer((3,), "float32")):
    for i in range(3):
        with T.sblock("copy"):
            j = T.axis.spatial(3, i)
            b[j] = a[j]


def module_pass(change: Any) -> Any:
    return tvm.transform.module_pass(lambda mod, _: change(mod), opt_level=0, name="mine.Change")


def test_passes_run_in_order_on_a_prepared_network(tiny: Network) -> None:
    seen: list[str] = []

    def note(name: str) -> Any:
        return module_pass(lambda mod: (seen.append(name), mod)[1])

    result = apply_passes(tiny, [note("first"), note("second")])
    assert seen == ["first", "second"]
    assert (result.inputs, result.outputs) == (tiny.inputs, tiny.outputs)
    assert apply_passes(tiny, []) is tiny


def _other_output(mod: tvm.IRModule) -> tvm.IRModule:
    func = mod["main"]
    (block,) = func.body.blocks
    builder = relax.BlockBuilder()
    with builder.function("main", func.params, attrs=dict(func.attrs)):
        with builder.dataflow():
            first = builder.emit_output(builder.normalize(block.bindings[0].value))
        builder.emit_func_output(first)
    return builder.finalize()


def _raise(_: tvm.IRModule) -> tvm.IRModule:
    raise ValueError("no idea")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: tvm.IRModule(), "pass 'mine.Change' failed: .*no function 'main'"),
        (_other_output, r"'mine.Change' changed the network's inputs or outputs"),
        (_raise, "pass 'mine.Change' failed: .*no idea"),
    ],
)
def test_a_pass_that_breaks_the_network(tiny: Network, change: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        apply_passes(tiny, [module_pass(change)])


def test_something_else_than_a_pass(tiny: Network) -> None:
    with pytest.raises(CompileError, match=r"'function' is no tvm.transform.Pass"):
        apply_passes(tiny, [_raise])


class _Rule(ScheduleRule):  # type: ignore[misc]
    def __init__(self, result: Any) -> None:
        self.result, self.offered = result, 0

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        self.offered += 1
        return self.result(func)


def test_the_first_rule_that_takes_a_kernel_wins(tiny: Network, tmp_path: Any) -> None:
    declines, takes = _Rule(lambda _: None), _Rule(s_tir.Schedule)
    with pytest.raises(CompileError, match="schedules: int is no ScheduleRule"):
        ApplyScheduleRules([3])
    # Taken without a change, the convolution is what it is without a schedule: correct and slow.
    compile_network(tiny, tmp_path / "own", workers=1, schedules=[declines, takes])
    assert declines.offered == takes.offered > 0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda _: 3, "gave int for the kernel"),
        (lambda _: s_tir.Schedule(other), r"gave a Schedule with operands .*'3'"),
        (_raise, "schedule rule _Rule failed on the kernel .*no idea"),
    ],
)
def test_a_rule_that_fails(tiny: Network, tmp_path: Any, result: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_network(tiny, tmp_path / "own", workers=1, schedules=[_Rule(result)])
