# SPDX-License-Identifier: Apache-2.0
"""The records that come with the library fit the layers that it makes today."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tvm

from decnn_tvm.compiler import SHIPPED_RECORDS, split_network
from decnn_tvm.frontend import load
from decnn_tvm.lowering import lower_stages
from decnn_tvm.schedules.apply import is_layer
from decnn_tvm.testing import zoo
from decnn_tvm.tuning.record_files import RECORDS
from decnn_tvm.tuning.records import ApplyRecords
from decnn_tvm.tuning.shipped_records import read_shipped

FOLDERS = sorted(path.parent for path in SHIPPED_RECORDS.glob(f"*/{RECORDS}.gz"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_layer_of_a_network_has_a_record_that_replays(folder: Path) -> None:
    with gzip.open(folder / f"{RECORDS}.gz") as lines:
        first = json.loads(lines.readline())
    target = tvm.target.Target(first[1][2])
    assert target.attrs["mcpu"] == folder.name
    split = split_network(load(zoo.resnet(18)), 1, None, False, "float32")
    lowered = [lower_stages(mod, target, winograd=True) for mod in split.values()]
    with target:
        applied = [ApplyRecords(read_shipped(folder))(mod) for mod in lowered]
    layers = [
        (var.name_hint, func.attrs.get("tirx.is_scheduled", False))
        for mod in applied
        for var, func in mod.functions_items()
        if is_layer(func)
    ]
    left = [name for name, scheduled in layers if not scheduled]
    assert layers and not left, "measure again: schedules/records/README.md"
