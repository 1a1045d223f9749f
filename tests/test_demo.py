# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decnn_tvm.demo.data import imagenet_sample, opennsfw_sample, photographs, trained_model
from decnn_tvm.demo.exact_split import Comparison, split_exactly
from decnn_tvm.demo.timeline_picture import draw_timeline, on_the_way, window_of
from decnn_tvm.runtime.statistics import EventKind, TimelineEvent


def event(rank: int, kind: EventKind, sample: int, start: float, end: float) -> TimelineEvent:
    return TimelineEvent(rank=rank, kind=kind, sample=sample, stage="stage0", start=start, end=end)


def test_photographs_differ_and_have_the_networks_shapes() -> None:
    paths = photographs(20)
    assert len(set(paths)) == 20 and len(photographs(3)) == 3
    samples = [imagenet_sample(path) for path in paths[:2]]
    assert all(x.shape == (1, 3, 224, 224) and x.dtype == np.float32 for x in samples)
    assert np.abs(samples[0] - samples[1]).mean() > 0.1
    assert opennsfw_sample(paths[0]).shape == (1, 224, 224, 3)


def test_the_trained_model_shows_its_logits() -> None:
    assert len(trained_model().graph.output) == 2


def test_a_comparison_sees_the_largest_error() -> None:
    reference = (np.array([2.0, -4.0]), np.array([0.0, 1.0]))
    ours = (np.array([2.0, -4.0]), np.array([0.0, 1.4]))
    comparison = Comparison(output="y", ours=ours, reference=reference)
    assert comparison.errors == pytest.approx((0.0, 0.1))
    assert comparison.error == pytest.approx(0.1)
    assert comparison.closest == pytest.approx(1.25)
    damaged = Comparison(output="y", ours=(ours[0], ours[1] * np.nan), reference=reference)
    assert np.isnan(damaged.error)


def test_the_window_lies_in_the_middle() -> None:
    timeline = [event(0, "compute", sample, sample, sample + 1) for sample in range(10, 20)]
    assert window_of(timeline, 4) == [13, 14, 15, 16]
    assert window_of(timeline, 99) == list(range(10, 20))


def test_a_value_is_on_its_way_from_the_first_sender_to_the_last_arrival() -> None:
    timeline = [
        event(0, "send", 3, 1.0, 1.5),
        event(1, "send", 3, 2.0, 2.5),
        event(2, "receive", 3, 4.0, 4.1),
        event(2, "receive", 3, 5.0, 5.1),
        event(0, "receive", 3, 6.0, 6.1),
        event(1, "receive", 4, 6.0, 6.1),  # from the coordinator, whose sends are not traced
    ]
    found = [(e.rank, e.sample, e.start, e.end) for e in on_the_way(timeline)]
    assert found == [(2, 3, 1.5, 5.0), (0, 3, 2.5, 6.0)]


def test_the_picture_shows_stages_where_they_ran(tmp_path: Path) -> None:
    """Worker 0 computes in the first half of the time, worker 1 in the second."""
    timeline = [event(0, "compute", 0, 5.0, 6.0), event(1, "compute", 0, 6.0, 7.0)]
    draw_timeline(timeline, [0], tmp_path / "t.png", "")
    with Image.open(tmp_path / "t.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    blue = (pixels == (31, 119, 180)).all(axis=2)  # the first colour of tab10
    blue[int(0.7 * len(blue)) :] = False  # the legend
    rows, columns = blue.nonzero()
    left = columns < (columns.min() + columns.max()) / 2
    assert rows[left].max() < rows[~left].min()


@pytest.mark.slow
def test_the_trained_network_splits_exactly(tmp_path: Path) -> None:
    comparisons = split_exactly(photographs(4), tmp_path / "package", workers=3)
    assert [c.error <= 1e-4 for c in comparisons] == [True, True]
    assert comparisons[1].closest >= 1e-2
