# SPDX-License-Identifier: Apache-2.0
"""
Tune kernels on boards behind a tracker
=======================================

Every convolution can be computed by many equivalent loop nests: tiles of other sizes, other orders.
decnn-tvm picks one by a model of the processor. *Tuning* measures a few dozen on the device itself
and keeps the fastest. Boards offer themselves at a *tracker*; you send it candidates. Here one
process on this machine plays the board.

Files go to ``tutorial-out/``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

import decnn_tvm
from decnn_tvm.testing import zoo
from decnn_tvm.testing.boards import running_tracker, running_worker

out = Path("tutorial-out")
out.mkdir(exist_ok=True)

# %%
# A network
# ---------
# Tune with the options that you compile with: how a network is split decides which layers there
# are. This one is the beginning of a ResNet-18 with random weights, for one device.

model = zoo.small("resnet18", image_size=32, blocks=(1,))
network = decnn_tvm.load(model)

# %%
# A tracker and a board
# ---------------------
# These two start ``python -m tvm.exec.rpc_tracker`` and ``decnn worker --tuning`` on free ports of
# loopback, and end both with the block. A worker that is started so serves `tune` beside what it is
# there for, in a process of its own. The *key* says what kind of board it is; any number of boards
# may share it, and candidates go to whichever is free.
#
# `tune` compiles candidates here, in processes of their own, sends them to the board and times them
# there. A few trials for each layer show how it goes; the default is 16.

with running_tracker() as tracker, running_worker(tracker, "this-machine"):
    report = decnn_tvm.tune(
        network,
        out / "records",
        workers=1,
        winograd=False,
        trials=2,
        tracker=tracker,
        key="this-machine",
    )

# %%
# What was found
# --------------
# *before* is the model's choice, *after* the fastest that was measured. On a processor that the
# model knows well there is little to gain, and a tuned kernel is never slower than the choice it
# was measured against.

for task in report.tasks:
    assert task.before_us is not None and task.after_us is not None
    print(
        f"{task.name:28} {task.measured} of {task.candidates} candidates, "
        f"{task.before_us:8.1f} us before, {task.after_us:8.1f} us after"
    )
    assert task.after_us <= task.before_us and not task.failures

# %%
# What was measured is not measured again
# ---------------------------------------
# The folder holds a database of MetaSchedule, TVM's tuner. Ask for the same again, without any
# board, and nothing is left to do. So a run that was interrupted simply goes on.

again = decnn_tvm.tune(network, out / "records", workers=1, winograd=False, trials=2)
print("measured by the second run:", sum(task.new for task in again.tasks))
assert not any(task.new for task in again.tasks)

# %%
# Use it
# ------
# A layer that the records know for this target runs as was measured; the rest by the model. Other
# loops, same numbers: ONNX Runtime judges.

package = decnn_tvm.compile(
    network, out / "tuned.pkg", workers=1, winograd=False, records=out / "records"
)
image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype="float32")
(expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": image})
with decnn_tvm.LocalCluster(1) as cluster, cluster.deploy(package) as session:
    logits = session.run(image)
error = float(np.abs(logits - expected).max() / np.abs(expected).max())
print(f"largest error: {error:.1e} of the largest logit")
assert error < 1e-4

# %%
# With real boards
# ----------------
# Three things differ. The target is the board's, and its code is made by cross-compiling here; the
# tracker has an address that the boards reach; and no result of another kind of board is used for
# it. From a shell::
#
#     here$  python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190 --port-end 9191
#     board$ decnn worker --port 7000 --tuning 127.0.0.1:9190 --tuning-key rpi4
#     here$  decnn tune mine.onnx --records records/ --workers 4 \
#                --target raspberry-pi/4b-aarch64 --tracker 127.0.0.1:9190 --key rpi4
#
# TVM's RPC asks nobody who he is and runs what it is sent. So keep both on loopback and join them
# by an ssh tunnel, as docs/SECURITY.md shows.
