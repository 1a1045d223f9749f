# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decnn_tvm.testing.equality import assert_logits_match, reference_outputs

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs_and_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), names)
    reference = reference_outputs(tmp_path / "grouped.onnx", names["images"])
    assert_logits_match(names["logits"], reference)
    assert np.argmax(reference[0]) == names["logits"][0].argmax()
    assert names["package"].plan.groups == 4


def test_the_documents_that_it_names_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    local = [link for link in links if "://" not in link]
    assert local and all((README.parent / link).is_file() for link in local)
