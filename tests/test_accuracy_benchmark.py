# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import ship_network
from benchmarks.accuracy import main, read_options, stage_channels
from benchmarks.accuracy_runs import VARIANTS, variant_network
from benchmarks.cifar10 import read_cifar10
from decnn_tvm.demo.shipped_network import shipped_card, shipped_network
from decnn_tvm.errors import TrainingError
from decnn_tvm.training.report import network_cost


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive like CIFAR-10's: two classes, dark and bright."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("archive") / "images.tar.xz"
    with tarfile.open(path, "w:xz") as files:
        for part, count in (("train", 16), ("test", 4)):
            for index in range(count):
                for label, name in enumerate(("cat", "dog")):
                    pixels = random.integers(0, 100, (32, 32, 3)) + 100 * label
                    content = io.BytesIO()
                    Image.fromarray(pixels.astype("uint8")).save(content, "JPEG")
                    info = tarfile.TarInfo(f"{part}/{name}/{index:04}.jpg")
                    info.size = len(content.getvalue())
                    files.addfile(info, io.BytesIO(content.getvalue()))
    return path


def table(archive: Path, out: Path, *options: object) -> dict[str, Any]:
    arguments = ["--data", archive, "--out", out, "--json", out / "table.json"]
    arguments += ["--batch", 16, "--threads", 1, "--device", "cpu", *options]
    main([str(argument) for argument in arguments])
    return json.loads((out / "table.json").read_text())  # type: ignore[no-any-return]


def test_rows_regimes_and_what_is_not_trained_again(archive: Path, tmp_path: Path) -> None:
    variants = ["--variants", "dense", "x1, stage"]
    found = table(archive, tmp_path, "--epochs", 1, "--seeds", 0, 1, *variants)
    dense, grouped = found["rows"]
    assert (dense["variant"], grouped["variant"]) == ("dense", "G4 x1, stage shuffles")
    assert dense["M MACs"] == pytest.approx(40.8, abs=0.1)  # He et al. (2015), with projections
    assert 3.5 < dense["M MACs"] / grouped["M MACs"] < 4
    assert dense["exchange kB, float32"] == 0
    # Layers 1 and 2 end with 16 x 32 x 32 and 32 x 16 x 16; three quarters move.
    assert grouped["exchange kB, float32"] == pytest.approx(3 * (16384 + 8192) / 1e3)
    assert len(grouped["by seed"].split(", ")) == 2
    assert "32 images, 1 epochs" in dense["regime"]
    reports = sorted(tmp_path.glob("runs/*/resnet20/*/seed*/report.json"))
    times = [path.stat().st_mtime_ns for path in reports]
    assert len(reports) == 4
    assert table(archive, tmp_path, "--epochs", 1, "--seeds", 0, 1, *variants)["rows"] == [
        dense,
        grouped,
    ]
    assert [path.stat().st_mtime_ns for path in reports] == times
    other = table(archive, tmp_path, "--epochs", 2, "--variants", "dense")
    assert [row["regime"].split(", ")[1] for row in other["rows"]] == ["2 epochs"]
    wires = table(archive, tmp_path, "--epochs", 1, "--study", "wires", *variants)["rows"]
    assert [row["variant"] for row in wires] == ["G4 x1, stage shuffles"]
    assert wires[0]["int8 kB"] == pytest.approx(grouped["exchange kB, float32"] / 4)


def test_wider_networks_cost_less_than_the_dense_one() -> None:
    """Channels are multiples of 16, which a shuffle of four groups needs: 28 and 56 become more."""
    found = {}
    for variant in VARIANTS:
        network = variant_network("resnet20", variant, 0)
        macs = network_cost(network).macs / 1e6
        found[variant.removesuffix(", stage shuffles")] = (stage_channels(network), round(macs, 1))
    assert found["dense"] == ([16, 32, 64], 40.8)
    assert found["G4 x1.5"] == ([32, 48, 96], 30.0)
    assert found["G4 x1.75"] == ([32, 64, 112], 38.3)


def test_a_run_becomes_the_network_that_is_shipped(archive: Path, tmp_path: Path) -> None:
    options = ["--data", archive, "--out", tmp_path, "--epochs", 1, "--batch", 16, "--threads", 1]
    options += ["--subset", 32, "--learning-rate", 0.05, "--weight-decay", 1e-4]
    arguments = [str(o) for o in [*options, "--device", "cpu", "--variants"]]
    ship_network.main([*arguments, "x1, stage"], tmp_path / "shipped")
    card, network = shipped_card(tmp_path / "shipped"), shipped_network(tmp_path / "shipped")
    assert (network.groups, network.name) == (4, "resnet20-g4-x1-cifar10")
    assert (card.classes, card.channels, card.epochs) == (["cat", "dog"], [16, 32, 64], 1)
    assert card.parameters == network_cost(network).parameters
    command = shlex.split(card.command)
    assert command[:3] == ["python", "-m", "benchmarks.ship_network"]
    again, given = (read_options(words) for words in (command[3:], [*arguments, "x1, stage"]))
    names = ["epochs", "batch", "learning_rate", "weight_decay", "subset", "device", "threads"]
    assert [getattr(again, n) for n in names] == [getattr(given, n) for n in names]
    assert (again.networks, again.seeds, again.variants) == (["resnet20"], [0], [card.structure])
    started = ["--study", "starts", "--starts", "inherited, naive", "--budgets", "2"]
    started += ["--start-rate", "0.03"]
    ship_network.main([*arguments, "x1, stage", *started], tmp_path / "shipped")
    card = shipped_card(tmp_path / "shipped")
    assert (card.start, card.epochs, card.recipe["learning_rate"]) == ("inherited, naive", 2, 0.03)
    again = read_options(shlex.split(card.command)[3:])
    assert (again.study, again.starts, again.budgets) == ("starts", ["inherited, naive"], [2])
    with pytest.raises(SystemExit, match="expected one decoupled one"):
        ship_network.main([*arguments, "x1"], tmp_path / "shipped")


@pytest.mark.slow
def test_starts(archive: Path, tmp_path: Path) -> None:
    options = ["--epochs", 1, "--variants", "dense", "x1.5"]
    rows = table(archive, tmp_path, *options, "--study", "starts", "--budgets", 1)["rows"]
    assert [row["start"] for row in rows] == [
        "fresh",
        "inherited, naive",
        "inherited, calibrated",
        "calibrated, distilled",
    ]
    assert all(row["top-1 before training, %"] is not None for row in rows)
    rows = table(archive, tmp_path, *options, "--study", "untrained")["rows"]
    assert [row["weights"].split(",")[0] for row in rows] == [
        "naive",
        "naive",
        "groups chosen",
        "natural groups",
        "calibrated: groups chosen and fitted",
    ]
    # Of 8 test images, and beside the dense network of the table.
    assert {8 * row["top-1, %"] % 100 for row in rows} == {0}
    dense = table(archive, tmp_path, "--epochs", 1, "--variants", "dense")["rows"][0]
    assert {(r["variant"], r["dense top-1, %"]) for r in rows} == {
        ("G4 x1.5, stage shuffles", dense["top-1, %"])
    }


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file"):
        read_cifar10(tmp_path / "none.tar.xz", tmp_path)
    with tarfile.open(tmp_path / "empty.tar.xz", "w:xz"):
        pass
    with pytest.raises(TrainingError, match="expected train/CLASS"):
        read_cifar10(tmp_path / "empty.tar.xz", tmp_path)
