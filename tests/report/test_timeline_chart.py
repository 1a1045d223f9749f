# SPDX-License-Identifier: Apache-2.0
"""The timeline's picture, and what it says where it has none or leaves devices out."""

from __future__ import annotations

import pytest

from decnn_tvm.report.timeline_chart import MAX_ROWS, draw_timeline
from decnn_tvm.runtime.statistics import TimelineEvent


def ran(rank: int, start: float, end: float) -> TimelineEvent:
    return TimelineEvent(rank=rank, kind="compute", sample=3, stage="stage0", start=start, end=end)


def test_stages_are_drawn_to_scale() -> None:
    text = draw_timeline([ran(0, 1.0, 1.5), ran(1, 1.5, 3.0)], ["left", "right"])
    assert "computes stage0, sample 3: 500.00 ms" in text and "1500.00 ms" in text
    # 840 units for two seconds: a quarter and three quarters.
    assert 'width="210.00"' in text and 'width="630.00"' in text
    assert "more devices" not in text


@pytest.mark.parametrize("events", [[], [ran(0, 1.0, 1.0)], [ran(0, 1.0, 1.0 + 1e-12)]])
def test_no_time_is_no_picture(events: list[TimelineEvent]) -> None:
    assert draw_timeline(events, ["left"]) == "<p>No stage takes time here.</p>"


def test_devices_that_are_left_out_are_counted() -> None:
    count = MAX_ROWS + 3
    text = draw_timeline([ran(rank, 0.0, 1.0) for rank in range(count)], ["a"] * count)
    assert "and 3 more devices" in text
