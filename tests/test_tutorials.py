# SPDX-License-Identifier: Apache-2.0
"""Every tutorial, run as its reader runs it; what it writes is judged by others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import decnn_tvm

TUTORIALS = Path(__file__).parents[1] / "tutorials"
NAMES = sorted(path.name for path in TUTORIALS.glob("[0-9]*.py"))
LIMIT = 240  # seconds; on a free core none takes 20


def read(name: str, folder: Path) -> str:
    """Run a tutorial in `folder` and return what it prints."""
    command = [sys.executable, "-W", "error", str(TUTORIALS / name)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not result.stderr, result.stderr[-3000:]
    return result.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """Return what the group of `pattern` holds, everywhere in `text`, as numbers."""
    return [float(found.replace(",", "")) for found in re.findall(pattern, text)]


def test_decouple(tmp_path: Path) -> None:
    text = read("01_decouple.py", tmp_path)
    model = onnx.load(tmp_path / "tutorial-out/grouped.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = [a.i for node in convolutions for a in node.attribute if a.name == "group"]
    assert len(convolutions) == 12 and sorted(groups) == [*[1] * (len(groups) - 11), *[4] * 11]
    assert text.count("can be decoupled") == 11
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    (dense, decoupled) = numbers(r"weights +([\d,]+) dense", text) + numbers(
        r"dense, +([\d,]+) decoupled\n(?=MACs of)", text
    )
    # Shapes of reshapes and the like are initializers too, of a few numbers each.
    assert 0 <= weights - decoupled < 100 and decoupled < 0.6 * dense
    assert text.count("all_to_all") == text.count("a shuffle of") == 3
    assert "the three passes give the same network" in text
    package = decnn_tvm.Package(tmp_path / "tutorial-out/grouped.pkg")
    assert package.plan.decoupled and package.plan.groups == 4


def test_split_exactly(tmp_path: Path) -> None:
    text = read("02_split_exactly.py", tmp_path)
    errors = numbers(r"largest error: (\S+) of the largest logit", text)
    assert len(errors) == 2 and all(0 < error < 1e-5 for error in errors)
    shares = numbers(r"worker \d: +([\d.]+)% of the network's weights", text)
    assert len(shares) == 3 and all(30 < share < 45 for share in shares)
    assert "worker 0: shares [0, 1]" in text and "worker 1: shares [2]" in text
    assert "8 streamed results, bit by bit those of run()" in text
    assert (tmp_path / "tutorial-out/timeline.json").stat().st_size > 1000


def test_tune(tmp_path: Path) -> None:
    text = read("03_tune.py", tmp_path)
    lines = re.findall(r"(\d+) of (\d+) candidates, +([\d.]+) us before, +([\d.]+) us", text)
    layers = [[float(part) for part in line] for line in lines]
    assert len(layers) == 4
    for measured, space, before, after in layers:
        assert 2 == measured <= space and 0 < after <= before
    assert "measured by the second run: 0" in text
    assert numbers(r"largest error: (\S+) of", text)[0] < 1e-4
    records = tmp_path / "tutorial-out/records/database_tuning_record.json"
    assert len(records.read_text().splitlines()) >= 2 * len(layers)


def test_train_and_deploy(tmp_path: Path) -> None:
    text = read("04_train_and_deploy.py", tmp_path)
    before = numbers(r"groups as they happen to be: ([\d.]+)%", text)[0]
    after = numbers(r"after training: ([\d.]+)%", text)[0]
    right, same = numbers(r"four workers: ([\d.]+)% right", text) + numbers(
        r"right, ([\d.]+)% as PyTorch says", text
    )
    assert after > before and right > 60 and same >= 95
    assert len(re.findall(r"^epoch \d", text, re.MULTILINE)) == 6
    package = decnn_tvm.Package(tmp_path / "tutorial-out/stripes.pkg")
    wires = {m.wire for m in package.plan.movements if m.kind == "all_to_all"}
    assert wires <= {"int8", "uint8"} and wires


def test_plan(tmp_path: Path) -> None:
    text = read("05_plan.py", tmp_path)
    assert "for throughput: replicas" in text and "for latency: row strips" in text
    assert "decoupled, G=4 x1.5" in text
    assert "shares with a slow board: replicas (4, 4, 4, 3)" in text
    refused = re.search(r"refused: .* alone takes ([\d.]+) ms, .* takes ([\d.]+) ms; ", text)
    assert refused is not None and float(refused[1]) < float(refused[2])
    assert text.count("does not fit: ") == 2 and "one device - board-0 would need" in text
    (predicted, measured) = numbers(r"predicted: +([\d.]+)", text) + numbers(
        r"measured: +([\d.]+)", text
    )
    assert 0.1 < predicted / measured < 10


def test_own_pass_and_schedule(tmp_path: Path) -> None:
    text = read("06_own_pass_and_schedule.py", tmp_path)
    macs = numbers(r"([\d,]+) MACs before", text) + numbers(r"pass, ([\d,]+) after", text)
    assert 0 < macs[1] < macs[0]
    errors = numbers(r"largest error (\S+),", text)
    assert len(errors) == 2 and all(0 < error < 1e-5 for error in errors)
    plain, own = numbers(r"([\d,]+) bytes sent for each image", text)
    assert 0 < own < plain
    assert "1 kernel scheduled by our rule" in text and "for lane in T.vectorized" in text
    assert "refused: pass 'mine.Broken'" in text


def test_the_readme_lists_them_all() -> None:
    text = (TUTORIALS / "README.md").read_text()
    assert sorted(set(re.findall(r"\((\d\d_\w+\.py)\)", text))) == NAMES
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_document(name: str) -> None:
    """A title, cells with prose, and a test of its own here."""
    source = (TUTORIALS / name).read_text()
    assert source.count("\n# %%\n# ") >= 5
    title, underline = source.split('"""')[1].strip().splitlines()[:2]
    assert underline == "=" * len(title)
    assert f'read("{name}"' in Path(__file__).read_text()
