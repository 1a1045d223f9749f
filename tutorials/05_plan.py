# SPDX-License-Identifier: Apache-2.0
"""
Plan for your boards
====================

There are several ways to run a CNN on several boards, and often the best is not to split it at all.
`decnn plan` answers before you compile or buy anything: it splits the network each way, plays every
message and every kernel in a simulation, and ranks what comes out. You will plan for boards that
are not there, for one that is slower than the others, and for links that are too slow; and then
hold a prediction against a measurement.

Tutorial 2 shows what a split is. Files go to ``tutorial-out/``.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

import decnn_tvm
from decnn_tvm.cluster_file import ClusterFile
from decnn_tvm.errors import PlanningError
from decnn_tvm.planning.memory import IDLE_BYTES
from decnn_tvm.planning.planner import Ranking, rank
from decnn_tvm.planning.prediction import predict
from decnn_tvm.planning.speeds import Speeds, cluster_speeds
from decnn_tvm.profiling import measure_profile
from decnn_tvm.testing import zoo

out = Path("tutorial-out")
out.mkdir(exist_ok=True)

# %%
# A network, and boards in a file
# -------------------------------
# The boards need not exist. What a Raspberry Pi 4 does in a second comes from a table until you
# measure your own, and so does the cost of a message; the link is stated here.

network = decnn_tvm.load(zoo.small("resnet18", image_size=224, width=1.0), name="resnet10")
COUNTS = (1, 4)  # try one board and four; 1, 2, 4, ... and all, if you leave it out


def boards(targets: list[str], bandwidth: str, latency: str, memory: int | None = None) -> Speeds:
    """Write a cluster file, as you would by hand, and return what is known of these boards.

    `memory` is in bytes, what each board may take.
    """
    lines = [
        f'[[worker]]\nname = "board-{i}"\naddress = "192.0.2.{i + 1}:9100"\ntarget = "{target}"\n'
        for i, target in enumerate(targets)
    ]
    lines.append(f'[[link]]\nbandwidth = "{bandwidth}"\nlatency = "{latency}"\n')
    path = out / "cluster.toml"
    path.write_text("\n".join(lines))
    return cluster_speeds(ClusterFile.read(path), memory=memory)


def show(ranking: Ranking) -> None:
    """Print what was weighed, best first, and why each of the others loses."""
    for entry in ranking.entries:
        found = entry.estimate
        if found is not None:
            print(
                f"{entry.name:20} shares {found.shares!s:14} {1e3 * found.latency_seconds:6.1f} ms "
                f"{found.samples_per_second:6.1f} images/s  {entry.reason}"
            )


# %%
# Four equal boards
# -----------------
# For images per second, whole copies of the network on every board are hard to beat, if each
# board's memory holds one: nothing is exchanged. For the time of a *single* image they gain
# nothing. Rank for what you need.

four = boards(["rpi4"] * 4, "940 Mb/s", "0.2 ms")
throughput = rank(network, four, goal="throughput", exact=True, counts=COUNTS)
show(throughput)
latency = rank(network, four, goal="latency", exact=True, counts=COUNTS)
show(latency)
print("for throughput:", throughput.best.alternative.name)
print("for latency:", latency.best.alternative.name)

# %%
# `exact` leaves out what would need training. Without it the network is also tried *decoupled*
# (tutorials 1 and 4): few exchanges, for a network that must be trained again. Where the structure
# is no published one, it is made half as wide again, to win back accuracy, which costs arithmetic.

trained = rank(network, four, goal="latency", counts=COUNTS)
show(trained)
assert any(entry.name.startswith("decoupled") for entry in trained.entries)

# %%
# A slower board among them
# -------------------------
# A Raspberry Pi 3 does less in a second. With equal shares the others would wait for it, so it gets
# a smaller one. What a *share* is depends on the way: turns of replicas, rows, channels or layers.

slower = boards(["rpi4"] * 3 + ["rpi3"], "940 Mb/s", "0.2 ms")
mixed = rank(network, slower, exact=True, counts=COUNTS)
best = mixed.best
print("shares with a slow board:", best.alternative.name, best.shares)
assert best.shares[3] < min(best.shares[:3])

# %%
# Links that are too slow
# -----------------------
# Over a slow radio link a split takes longer than one board does alone. The planner says so, with
# its figures, rather than give you the least bad way; on the command line that is exit status 2,
# and ``decnn compile --plan auto`` compiles nothing.

far = boards(["rpi4"] * 4, "1 Mb/s", "20 ms")
hopeless = rank(network, far, goal="latency", exact=True, counts=COUNTS)
try:
    raise AssertionError(f"{hopeless.best.alternative.name} over such a link?")
except PlanningError as refusal:
    print("refused:", refusal)

# %%
# Little memory
# -------------
# A board that can't hold the whole network rules out copies of it, and one board alone. What
# remains is a split, in which each board holds its part of the weights. Here each lacks one MiB to
# hold all, what a worker takes without any work included.

whole = max(memory.total for memory in throughput.single.memory)
tight = boards(["rpi4"] * 4, "940 Mb/s", "0.2 ms", memory=IDLE_BYTES + whole - (1 << 20))
small = rank(network, tight, exact=True, counts=COUNTS)
for entry in small.entries:
    if not entry.fits:
        print("does not fit:", entry.name, "-", entry.reason)

# %%
# Hold it against a measurement
# -----------------------------
# Here the boards are two processes of this machine, and the network is a smaller one, so that you
# need not wait for the compiler. `measure_profile` times the stages of a
# package on each, the links between them, and what messages cost; `predict` plays the same
# simulation with these figures. A prediction is a model: here, where two processes share one
# machine with whatever else runs there, expect tens of per cent. `benchmarks.prediction` does the
# same on emulated boards.

little = decnn_tvm.load(zoo.small("resnet18"), name="little")
package = decnn_tvm.compile(little, out / "rows.pkg", strategy="rows", workers=2)
image = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype="float32")
with decnn_tvm.LocalCluster(2, threads=1) as cluster:
    profile = measure_profile(cluster, package, seconds=0.5)
    predicted = predict(profile, package.plan, window=1, samples=3)
    with cluster.deploy(package) as session:
        took = []
        for _ in range(10):
            start = time.perf_counter()
            session.run(image)
            took.append(time.perf_counter() - start)
print(f"predicted: {1e3 * predicted.latency_seconds:.2f} ms for an image")
print(f"measured:  {1e3 * statistics.median(took):.2f} ms for an image")

# %%
# From the shell
# --------------
# The same without Python, and a page with pictures to show to others::
#
#     $ decnn profile mine.pkg --cluster cluster.toml -o profile.json
#     $ decnn plan mine.onnx --cluster cluster.toml --profile profile.json --for latency
#     $ decnn compile mine.onnx -o mine.pkg --cluster cluster.toml --plan auto
#     $ decnn report mine.onnx --cluster cluster.toml -o report.html
