# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.board_contestants import Scene, contestants
from benchmarks.board_curves import curves, draw_curves
from benchmarks.board_figures import COLUMNS, ordered, summary
from benchmarks.board_memory import PeakMemory
from benchmarks.delaying_links import Direction

ALL = ("decoupled", "single", "replicas", "pipeline", "channels", "rows")


def _contestants(boards: int, **changed: Any) -> list[str]:
    options: dict[str, Any] = {
        "networks": ["resnet50-x1.75", "vgg16_bn-x1.75"],
        "strategies": ALL,
        "wires": ["int8", "float32"],
        **changed,
    }
    return [one.package for one in contestants("resnet50", boards, **options)]


def test_every_strategy_has_its_package() -> None:
    assert _contestants(4) == [
        "resnet50-x1.75-G4-decoupled-int8",
        "resnet50-x1.75-G4-decoupled-float32",
        "resnet50-replicas-4-float32",
        "resnet50-pipeline-4-int8",
        "resnet50-pipeline-4-float32",
        "resnet50-channels-4-int8",
        "resnet50-channels-4-float32",
        "resnet50-rows-4-int8",
        "resnet50-rows-4-float32",
    ]


def test_one_board_has_the_dense_network_alone_and_eight_have_eight_groups() -> None:
    assert _contestants(1, strategies=["decoupled", "single", "rows"]) == [
        "resnet50-x1.75-G4-decoupled-int8",
        "resnet50-x1.75-G4-decoupled-float32",
        "resnet50-single-float32",
    ]
    assert _contestants(8, strategies=["decoupled"], wires=["int8"], tiles=[1, 2]) == [
        "resnet50-x1.75-G8-decoupled-int8",
        "resnet50-x1.75-G8-decoupled-int8-tiles2",
    ]


def test_a_preset_of_exact_channels_has_no_variant_of_eight_groups() -> None:
    options: dict[str, Any] = {"networks": ["vgg16_bn-x1.75"], "wires": ["int8"]}
    assert contestants("vgg16_bn", 8, strategies=["decoupled"], **options) == ()
    assert len(contestants("vgg16_bn", 4, strategies=["decoupled"], **options)) == 1


def test_a_scene_survives_json() -> None:
    scene = Scene(
        setting="b",
        boards=2,
        encrypted=True,
        delay=2.0,
        model="resnet50",
        contestants=contestants(
            "resnet50", 2, networks=["resnet50-x1.75"], strategies=ALL, wires=["int8"]
        ),
    )
    assert Scene.from_json(scene.to_json()) == scene
    assert str(scene) == "(b) 2 x 0.125 core, 100 Mb/s, 2 ms, keys"


def _row(**changed: Any) -> dict[str, Any]:
    return {
        "setting": "a",
        "encrypted": True,
        "delay ms": 0.0,
        "network": "resnet50-x1.75-G4",
        "contestant": "decoupled",
        "boards": 4,
        "wire": "int8",
        "tiles": 1,
        "times the throughput": 4.6,
        "times the latency": 3.5,
        "memory MB": 30.0,
        **changed,
    }


def test_headline_figures_and_their_aims() -> None:
    engine = _row(network="resnet50", contestant="ncnn", boards=1, wire=None)
    rows = [
        _row(),
        _row(wire="float32"),
        _row(encrypted=False, **{"times the latency": 0.0}),
        {**engine, "memory MB": 100.0},
        {**engine, "contestant": "ONNX Runtime", "memory MB": 150.0},
    ]
    figures = summary(rows)
    assert {name: (f.value, f.aim, f.met) for name, f in figures.items()} == {
        "(a) int8: times the throughput": (4.6, 4.5, True),
        "(a) int8: times the latency": (3.5, 3.6, False),
        "(a) int8: memory of a board / the smallest of one": (0.3, 0.25, False),
        "(a) float32: times the throughput": (4.6, 3.21, True),
        "(a) float32: times the latency": (3.5, 3.21, True),
        "(a) float32: memory of a board / the smallest of one": (0.3, 0.25, False),
    }


def test_rows_are_ordered_and_have_all_columns() -> None:
    rows = [_row(setting="b"), _row(), _row(contestant="ncnn", boards=1)]
    found = ordered(rows)
    assert [(row["setting"], row["boards"]) for row in found] == [("a", 1), ("a", 4), ("b", 4)]
    assert all(tuple(row) == COLUMNS for row in found)


def test_curves_show_the_best_wire_of_every_number_of_boards(tmp_path: Path) -> None:
    rows = [
        _row(),
        _row(wire="float32", **{"times the throughput": 3.0}),
        _row(boards=2, **{"times the throughput": 2.5}),
        _row(setting="b"),
        _row(encrypted=False, **{"times the throughput": 9.0}),
        _row(contestant="rows", network="resnet50", **{"times the throughput": 2.0}),
        _row(contestant="ncnn", boards=1, **{"times the throughput": None}),
    ]
    assert curves(rows, "a", "times the throughput") == {
        "resnet50 rows": [(4, 2.0)],
        "resnet50-x1.75-G4": [(2, 2.5), (4, 4.6)],
    }
    assert [path.name for path in draw_curves(rows, tmp_path)] == ["boards-a.svg", "boards-b.svg"]
    assert "<svg" in (tmp_path / "boards-a.svg").read_text()


def test_a_link_delivers_what_is_due_in_order() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as end:
        direction = Direction(writer)
        direction.under_way.extend([(1.0, b"first"), (2.0, b"second"), (3.0, b"third")])
        direction.deliver(2.5)
        os.close(writer)
        assert end.read() == b"firstsecond"
    assert list(direction.under_way) == [(3.0, b"third")]


@pytest.mark.parametrize("megabytes", [8, 64])
def test_peak_memory_counts_what_a_process_took_and_gave_back(megabytes: int) -> None:
    program = (
        "import sys, time\n"
        "print(flush=True); sys.stdin.readline()\n"
        f"block = b'x' * ({megabytes} << 20); print(flush=True); sys.stdin.readline()\n"
        "del block; print(flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        with PeakMemory([process.pid]) as memory:
            for _ in range(2):
                process.stdin.write("\n")
                process.stdin.flush()
                process.stdout.readline()
                memory.look()
        process.stdin.close()
    assert megabytes << 20 <= memory.above_idle < (megabytes + 4) << 20
