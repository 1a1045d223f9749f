# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from decnn_tvm.testing.equality import assert_logits_match, random_inputs

REFERENCE = random_inputs((1, 10), 3)


def test_small_errors_pass() -> None:
    assert_logits_match([x + np.float32(1e-5) for x in REFERENCE], REFERENCE)


def test_one_wrong_value_fails() -> None:
    wrong = [x.copy() for x in REFERENCE]
    wrong[2][0, 3] += 1e-2
    with pytest.raises(AssertionError, match="output 2 is off by"):
        assert_logits_match(wrong, REFERENCE)


def test_swapped_outputs_fail() -> None:
    with pytest.raises(AssertionError, match="output 0 is off by"):
        assert_logits_match([REFERENCE[1], REFERENCE[0], REFERENCE[2]], REFERENCE)


def test_a_reference_that_sees_nothing_fails() -> None:
    same = [REFERENCE[0], REFERENCE[0] + np.float32(1e-3)]
    with pytest.raises(AssertionError, match="could not see a mistake"):
        assert_logits_match(same, same)


def test_values_that_are_not_finite_fail() -> None:
    broken = [REFERENCE[0], np.full((1, 10), np.nan, "float32")]
    with pytest.raises(AssertionError, match="not finite"):
        assert_logits_match(broken, REFERENCE[:2])


def test_other_shapes_fail() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_logits_match([x[:, :9] for x in REFERENCE], REFERENCE)


def test_a_single_input_is_refused() -> None:
    with pytest.raises(AssertionError, match="1 outputs"):
        assert_logits_match(REFERENCE[:1], REFERENCE[:1])
