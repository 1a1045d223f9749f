# SPDX-License-Identifier: Apache-2.0
"""
Split a CNN exactly over local workers
======================================

Here nothing about the network changes: a dense CNN is split over several worker processes, and what
they compute together equals what ONNX Runtime computes alone. The price is that they talk more. You
will see what they say, how much memory each one needs, and how to give a faster device more to do.

Tutorial 1 is not needed for this one. Files go to ``tutorial-out/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime

import decnn_tvm
from decnn_tvm.testing import zoo

out = Path("tutorial-out")
out.mkdir(exist_ok=True)

# %%
# A network and a reference
# -------------------------
# Yours would be ``decnn_tvm.load("mine.onnx")``. This one is a small VGG-16 with random weights:
# convolutions in a row, then three dense layers. What is right, ONNX Runtime says.

model = zoo.small("vgg16_bn", image_size=32, stages=((64,), (128,), (256,)))
network = decnn_tvm.load(model)
images = list(np.random.default_rng(0).standard_normal((8, 1, 3, 32, 32), dtype="float32"))
session = onnxruntime.InferenceSession(model.SerializeToString())
expected = [session.run(None, {"input": image})[0] for image in images]


def largest_error(results: list[np.ndarray]) -> float:
    """Return the largest difference, relative to the largest logit."""
    scale = max(np.abs(logits).max() for logits in expected)
    pairs = zip(results, expected, strict=True)
    return float(max(np.abs(ours - theirs).max() for ours, theirs in pairs) / scale)


# %%
# Compile it for three devices
# ----------------------------
# `compile` decides where every tensor lives, cuts the network where data have to move, generates
# machine code for each piece, and writes a *package*: code, weights and a plan.

package = decnn_tvm.compile(network, out / "vgg.pkg", workers=3)

# %%
# The plan names every movement of data. Between ``input`` and ``output``, which are between you and
# the workers, there is one for nearly every layer:
#
# - *all_gather*: each device has some channels of a tensor and gets the rest from the others,
#   because the next convolution reads all of them;
# - *reduce_scatter*: each device has a partial sum over its own channels; the sums are added, and
#   each keeps the features that it goes on with. It is chosen where it moves fewer bytes.

for movement in package.plan.movements:
    print(f"{movement.kind:15} {movement.source} -> {movement.target}")

# %%
# Run it
# ------
# `LocalCluster` starts three processes that import neither this script nor a compiler: they are
# what runs on boards. They talk to each other, not through you. `deploy` gives each one the
# weights of its own channels, and returns a session.

with decnn_tvm.LocalCluster(3) as cluster, cluster.deploy(package) as session:
    results = [session.run(image) for image in images]
    print(f"largest error: {largest_error(results):.1e} of the largest logit")
    assert largest_error(results) < 1e-5

    # `stream` takes any iterable and keeps several samples under way: while one waits for data from
    # another device, a device computes another one. Results come in order.
    streamed = list(session.stream(images, in_flight=4))
    assert all(np.array_equal(a, b) for a, b in zip(streamed, results, strict=True))
    print(f"{len(streamed)} streamed results, bit by bit those of run()")

    dense_stats = session.stats()
    trace = session.timeline()

# %%
# What each worker held and said
# ------------------------------
# No worker has the whole network. `weight_bytes` are its weights in memory, packed for kernels.
# Three shares come to a little more than one network: 16 channels do not divide by three, and
# kernels take whole vectors of them.

whole = 4 * decnn_tvm.inspect_network(network).parameters
for device in dense_stats:
    print(
        f"worker {device.rank}: {device.weight_bytes / whole:6.1%} of the network's weights, "
        f"{device.sent_bytes_per_image:>9,.0f} bytes sent for each image, "
        f"{len(device.sent_bytes)} movements"
    )
    assert device.weight_bytes < 0.5 * whole

# %%
# That is much for a small network. On a fast wire it may pay and on a slow one it will not; to send
# less, decouple (tutorial 1) or put smaller numbers on the wire (``compile(..., wire="float16")``,
# or ``"int8"`` with images to calibrate on).
#
# A device that is faster
# -----------------------
# Suppose that the first of two devices is twice as fast: give it two shares of three.

uneven = decnn_tvm.compile(network, out / "uneven.pkg", shares=(2, 1))
with decnn_tvm.LocalCluster(2) as cluster, cluster.deploy(uneven) as session:
    results = list(session.stream(images))
    uneven_stats = session.stats()
print(f"largest error: {largest_error(results):.1e} of the largest logit")
assert largest_error(results) < 1e-5
for device in uneven_stats:
    print(
        f"worker {device.rank}: shares {list(device.groups)}, "
        f"{device.weight_bytes / whole:.1%} of the weights"
    )
assert uneven_stats[0].weight_bytes > 1.8 * uneven_stats[1].weight_bytes

# %%
# When who did what
# -----------------
# `timeline` says when each worker ran which stage of which sample. As a file that
# https://ui.perfetto.dev opens, one row for each worker:

from decnn_tvm.runtime.trace import chrome_trace

names = [device.name for device in dense_stats]
(out / "timeline.json").write_text(json.dumps(chrome_trace(trace, names)))
print(f"{len(trace)} runs of stages in {out / 'timeline.json'}")

# %%
# On other machines
# -----------------
# A `LocalCluster` is three processes that you could have started yourself, here or on boards::
#
#     board$ decnn worker --host 192.168.1.11 --port 7000 --keys keys
#
#     with decnn_tvm.connect(["192.168.1.11:7000", ...], keys="keys/coordinator") as cluster:
#         with cluster.deploy(package) as session:
#             ...
#
# Addresses beyond this machine need keys, which ``decnn keys`` makes: see docs/SECURITY.md.
