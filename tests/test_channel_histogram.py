# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from decnn_tvm.channel_histogram import BINS, HEADROOM, METHODS, ChannelHistogram
from decnn_tvm.cli import image_options


def _filled(*parts):
    histogram = ChannelHistogram(len(parts[0]))
    for part in parts:
        histogram.add(part)
    return histogram


def test_the_width_grows_and_nothing_is_lost():
    random = np.random.default_rng(0)
    parts = [random.random((3, 50)) * scale + 1e-3 for scale in (1e-3, 1.0, 300.0, 2.0)]
    histogram = _filled(*parts)
    everything = np.concatenate(parts, axis=1)
    for channel, values in enumerate(everything):
        edges = np.arange(BINS + 1) * histogram.width[channel]
        # Halving may move what lies on an edge by a rounding error, so compare the running sums.
        expected = np.histogram(values, edges)[0].cumsum()
        assert np.abs(histogram.counts[channel].cumsum() - expected).max() <= 1
        assert histogram.counts[channel].sum() == 200
    np.testing.assert_array_equal(histogram.largest, everything.max(1))
    assert (histogram.width * BINS <= 2 * histogram.largest * (1 + 1e-9)).all()


def test_limits_are_positive_whatever_was_seen():
    histogram = _filled(np.array([[0.0, 0.0], [0.0, 2.0]]))
    for method in ("headroom", "max", "percentile", "mse"):
        limits = histogram.limits(method, 255)
        assert limits.dtype == np.float32 and (limits > 0).all()
        assert limits[0] == limits[1] and limits[1] == pytest.approx(
            2.0 * (HEADROOM if method == "headroom" else 1), rel=1e-3
        )
    assert (ChannelHistogram(2).limits("max", 127) == 1).all()


@pytest.mark.parametrize("levels", [15, 127, 255])
def test_mse_is_the_best_of_all_limits(levels):
    """Against the error of every limit, computed on the values themselves."""
    values = np.abs(np.random.default_rng(1).standard_cauchy((2, 20_000)))
    values = np.minimum(values, 40.0)
    limits = _filled(values).limits("mse", levels)

    def error(limit, channel):
        scale = limit / levels
        rounded = np.minimum(np.rint(channel / scale), levels) * scale
        return ((channel - rounded) ** 2).mean()

    for limit, channel in zip(limits, values, strict=True):
        best = min(error(part * channel.max(), channel) for part in np.linspace(0.05, 1, 200))
        assert error(limit, channel) <= 1.05 * best
    assert (limits < values.max(1)).all() == (levels == 15)


def test_percentile_cuts_off_one_in_ten_thousand():
    values = np.linspace(0.001, 1.0, 100_000)[np.newaxis]
    values[0, -5:] = 50.0
    assert _filled(values).limits("percentile", 255)[0] == pytest.approx(1.0, abs=0.05)
    assert _filled(values).limits("max", 255)[0] == 50.0


def test_the_command_line_offers_every_method():
    assert image_options.METHODS == METHODS
