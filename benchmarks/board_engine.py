# SPDX-License-Identifier: Apache-2.0
"""A process on a board that runs a network in ONNX Runtime or ncnn.

``python -m benchmarks.board_engine ENGINE FOLDER NAME THREADS`` imports the engine and says so; a
first line on its standard input makes it load the network and answer with the first outputs, every
further one holds seconds: it runs the network for so long, and answers with the time of each run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_sessions import load_ncnn, onnx_runtime_options

Run = Callable[[Any], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until standard input ends."""
    engine, folder, name, threads = sys.argv[1:] if arguments is None else arguments
    load = ENGINES[engine]
    __import__("onnxruntime" if engine == "ONNX Runtime" else "ncnn")
    images = np.load(Path(folder) / "numbers.npy")
    _say({})
    sys.stdin.readline()
    run = load(Path(folder), name, int(threads))
    _say([np.asarray(run(image)).ravel().tolist() for image in images])
    for line in sys.stdin:
        _say(_times(run, images, float(line)))


def _onnx_runtime(folder: Path, name: str, threads: int) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / f"{name}.onnx"),
        onnx_runtime_options(threads),
        providers=["CPUExecutionProvider"],
    )
    key = session.get_inputs()[0].name
    return lambda image: session.run(None, {key: image})[0]


def _ncnn(folder: Path, name: str, threads: int) -> Run:
    import ncnn

    net = load_ncnn(folder, name, threads)

    def run(image: Any) -> Any:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image[0]))
            return np.array(extractor.extract("out0")[1])

    return run


ENGINES = {"ONNX Runtime": _onnx_runtime, "ncnn": _ncnn}


def _times(run: Run, images: Any, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run(images[len(times) % len(images)])
        times.append(time.perf_counter() - start)
    return times


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
