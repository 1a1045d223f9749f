# SPDX-License-Identifier: Apache-2.0
"""What a worker takes on a board, and what the checks say of it."""

from __future__ import annotations

import json
from typing import Any

import decnn_tvm
from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.doctor.cluster_check import check_cluster

IMPORT = """\
import json, sys, time
start = time.perf_counter()
import numpy
numpy_s = time.perf_counter() - start
import decnn_tvm.runtime.worker
from decnn_tvm.runtime.library import load_runtime
sys.modules["torch"] = None
load_runtime()
from decnn_tvm.runtime.machine import memory
print(json.dumps([time.perf_counter() - start, numpy_s, memory().resident]))
"""


def test_size_import_and_idle_memory(boards: Any, figures: Any) -> None:
    site = next((boards.root / "opt" / "decnn" / "lib").glob("python3*")) / "site-packages"
    files = [path for path in site.rglob("*") if path.is_file() and not path.is_symlink()]
    pip = {path for path in files if path.relative_to(site).parts[0].startswith(("pip", "setup"))}
    figures["installed MB"] = round(sum(p.stat().st_size for p in {*files} - pip) / 1e6)
    figures["downloaded MB"] = round(
        sum(path.stat().st_size for path in (boards.root / "wheels").glob("*.whl")) / 1e6
    )
    done = boards.run("python3", "-c", IMPORT)
    assert done.returncode == 0, done.stderr
    seconds, numpy_seconds, resident = json.loads(done.stdout)
    figures["seconds to import a worker, emulated"] = round(seconds, 2)
    figures["seconds of these for NumPy"] = round(numpy_seconds, 2)
    figures["MB resident after the import, with the emulator"] = round(resident / 1e6)
    (board,) = boards.start(1)
    with decnn_tvm.connect([board.address], timeout=60) as cluster:
        worker = cluster.workers[0]
        modules = worker.call("modules")
        figures["MB resident of an idle worker, with the emulator"] = round(
            worker.observe().resident_bytes / 1e6
        )
    assert not [m for m in modules if m.startswith(("tvm.", "onnx", "xgboost"))]


def test_the_check_of_a_cluster_of_boards(boards: Any) -> None:
    older, newer = boards.start(1, cpu="cortex-a72")[0], boards.start(1, cpu="cortex-a76")[0]
    workers = (
        ClusterWorker(name="pi4", address=older.address, target="rpi4"),
        ClusterWorker(name="pi5", address=newer.address, target="rpi5"),
    )
    report = check_cluster(ClusterFile(workers=workers), timeout=60)
    assert not report.of("failure"), report.of("failure")
    assert len(report.links) == 6
    # The other way round the older one lacks what the newer one has.
    swapped = ClusterFile(
        workers=(ClusterWorker(name="pi4", address=older.address, target="rpi5"),)
    )
    (bad,) = check_cluster(swapped, timeout=60, links=False).of("failure")
    assert bad.check == "processor" and "asimddp" in bad.detail
