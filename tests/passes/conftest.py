# SPDX-License-Identifier: Apache-2.0
"""Every pass test runs under TVM's check that each pass leaves a well-formed module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tvm
from tvm.relax.ir.instrument import WellFormedInstrument


@pytest.fixture(autouse=True)
def well_formed() -> Iterator[None]:
    with tvm.transform.PassContext(instruments=[WellFormedInstrument()]):
        yield
