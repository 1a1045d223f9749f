# SPDX-License-Identifier: Apache-2.0
"""Emulated boards: every way to run a CNN on several, against ONNX Runtime and ncnn on one.

Boards are namespaces with a quota of processor time and a link with a rate: (a) a quarter of a core
and 1 Gb/s each, a Raspberry Pi 4 on Gigabit Ethernet; (b) an eighth and 100 Mb/s, the ratio of the
DeCNN paper. ONNX Runtime and ncnn run the dense network on one board of the same quota, in float32,
at the better of their thread counts, and everybody takes turns. Latency is an image alone, of
``times`` that of the faster engine in the same round; throughput a stream with a window.

Memory is the peak of Pss and swap of the worker that takes most, over what it took idle, from the
deployment to the end of a stream; for engines from the import on. Every mapped file counts whole.

Rows are kept in the file of ``--json``: what is there is not measured again without ``--again``.
Needs Linux and root; see `benchmarks.emulated_boards`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.board_contestants import (
    NETWORKS,
    SETTINGS,
    STRATEGIES,
    WIRES,
    Scene,
    contestants,
)
from benchmarks.board_curves import draw_curves
from benchmarks.board_figures import ordered, summary
from benchmarks.emulated_boards import check_needs, run_isolated
from benchmarks.harness import parser, progress, report, write
from decnn_tvm.errors import ClusterError

TITLE = "emulated boards"
Row = dict[str, Any]
KEY = (
    "setting",
    "encrypted",
    "delay ms",
    "network",
    "contestant",
    "boards",
    "wire",
    "tiles",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    try:
        check_needs()
    except ClusterError as error:
        sys.exit(f"benchmarks.boards: {error}")
    rows = _read(options.json)
    for scene in _scenes(options, rows):
        _prepare(options.packages, scene)
        if options.compile_only:
            continue
        progress(str(scene))
        rows = _merged(rows, _measure(scene, options))
        if options.json is not None:
            # Kept even where a later scene fails.
            write(TITLE, ordered(rows), summary(rows), options.json)
    if not options.compile_only:
        report(TITLE, ordered(rows), summary(rows), options.json)
        if options.curves is not None:
            draw_curves(rows, options.curves)


def _scenes(options: argparse.Namespace, rows: Sequence[Row]) -> Iterator[Scene]:
    """Yield what is to be measured, without the contestants whose rows are there."""
    done = set() if options.again else {_key(row) for row in rows}
    models = dict.fromkeys(NETWORKS[name].model for name in options.networks)
    places = itertools.product(
        models, options.settings, options.encryption, options.delays, options.boards
    )
    for model, setting, encryption, delay, boards in places:
        scene = Scene(
            setting=setting,
            boards=boards,
            encrypted=encryption == "on",
            delay=delay,
            model=model,
            contestants=contestants(
                model,
                boards,
                networks=options.networks,
                strategies=options.strategies,
                wires=options.wires,
                tiles=options.tiles,
            ),
        )
        left = tuple(one for one in scene.contestants if _key(scene.row_of(one)) not in done)
        if left:
            yield dataclasses.replace(scene, contestants=left)


def _prepare(packages: Path, scene: Scene) -> None:
    from benchmarks.board_packages import prepare  # the compiler, which a resumed run may not need

    prepare(packages, scene.model, scene.contestants)


def _measure(scene: Scene, options: argparse.Namespace) -> list[Row]:
    measuring = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "window": options.window,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        given = (options.packages, out, json.dumps(scene.to_json()), json.dumps(measuring))
        code = run_isolated("benchmarks.board_scene", [str(one) for one in given])
        if code:
            sys.exit(f"benchmarks.boards: {scene}: ended with status {code}")
        # A file may hold rows of several days; its environment is that of the last.
        today = date.today().isoformat()
        return [{**row, "date": today} for row in json.loads(out.read_text())]


def _read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return list(json.loads(path.read_text())["rows"])


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def _merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    return list({_key(row): row for row in (*old, *new)}.values())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    result = parser("benchmarks.boards", (__doc__ or "").splitlines()[0], rounds=3)

    def several(name: str, choices: Sequence[Any], default: Sequence[Any], text: str) -> None:
        kind = type(choices[0])
        result.add_argument(
            name,
            nargs="+",
            type=kind,
            choices=choices,
            default=list(default),
            metavar=kind.__name__.upper(),
            help=f"{text}: some of {', '.join(map(str, choices))} ({' '.join(map(str, default))})",
        )

    several("--settings", list(SETTINGS), list(SETTINGS), "boards and links")
    several("--boards", [1, 2, 4, 8], [4, 2, 1], "how many boards")
    several("--networks", list(NETWORKS), ["resnet50-x1.75"], "decoupled networks")
    several("--strategies", STRATEGIES, STRATEGIES, "ways to share the work")
    several("--wires", WIRES, WIRES, "element types of exchanges")
    several("--tiles", [1, 2, 4], [1], "row tiles of decoupled networks")
    several("--encryption", ["on", "off"], ["on"], "keys on both planes")
    several("--delays", [0.0, 2.0], [0.0], "milliseconds that a link adds")
    result.add_argument(
        "--seconds", type=float, default=6.0, help="of a turn, alone and in a stream (%(default)s)"
    )
    result.add_argument("--window", type=int, default=4, help="images under way (%(default)s)")
    result.add_argument(
        "--packages",
        type=Path,
        default=Path("bench-out/boards"),
        help="folder that keeps what was compiled (%(default)s)",
    )
    result.add_argument(
        "--curves", type=Path, metavar="FOLDER", help="draw speed-ups over boards, as SVG, there"
    )
    result.add_argument("--compile-only", action="store_true", help="compile, and measure nothing")
    result.add_argument(
        "--again", action="store_true", help="measure what the file of --json holds already"
    )
    return result.parse_args(arguments)


if __name__ == "__main__":
    main()
