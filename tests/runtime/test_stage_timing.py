# SPDX-License-Identifier: Apache-2.0
"""Stages are timed with whatever holds the processor back between them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from decnn_tvm.runtime import stage_timing

STAGE = 0.002
"""Seconds of processor time that a stage takes."""
HELD_BACK = {"stage0": 0.006, "stage1": 0.001}
"""Seconds that a quota takes away after it."""


class HeldBack:
    """A clock and a library on a board whose quota takes effect where processor time is asked."""

    def __init__(self) -> None:
        self.now = self.used = self.due = 0.0

    def __call__(self, function: str, arrays: object) -> None:
        self.now += STAGE
        self.used += STAGE
        self.due += HELD_BACK[function]

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        self.now, self.due = self.now + self.due, 0.0
        return self.used

    def kernel_seconds(self, function: str, arrays: object) -> list[tuple[str, float]]:
        return [("kernel", STAGE)]


def test_a_quota_between_stages_counts(hand_net, monkeypatch: pytest.MonkeyPatch) -> None:
    board = HeldBack()
    clock = SimpleNamespace(perf_counter=board.perf_counter, process_time=board.process_time)
    monkeypatch.setattr(stage_timing, "time", clock)
    found = stage_timing.time_stages(board, hand_net.package.plan, (0, 1), 10.0)  # type: ignore[arg-type]
    assert [stage["function"] for stage in found] == ["stage0", "stage1"]
    for stage in found:
        assert stage["processor_seconds"] == pytest.approx(STAGE)
        assert stage["seconds"] == pytest.approx(STAGE + HELD_BACK[stage["function"]])
