# SPDX-License-Identifier: Apache-2.0
"""
Write your own pass and your own schedule
=========================================

Two things happen between your network and machine code. **Passes** rewrite the graph: what is
computed. **Schedules** choose the loops of one kernel: how it is computed. Here you write one of
each, give them to `compile`, and prove against ONNX Runtime that no answer has changed.

Files go to ``tutorial-out/``. You need to know neither Relax nor TIR, TVM's languages of graphs and
of loops; you will see a little of both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import tvm
from tvm import relax, s_tir, tirx
from tvm.relax.dpl import is_op, rewrite_call, wildcard
from tvm.s_tir.dlight.base import ScheduleRule

import decnn_tvm
from decnn_tvm.network import Network
from decnn_tvm.testing import zoo

out = Path("tutorial-out")
out.mkdir(exist_ok=True)

# %%
# Something to improve
# --------------------
# Between its blocks a DenseNet has a 1x1 convolution and then an average over 2x2 pixels. Both are
# linear, and one mixes channels only, the other pixels only. So their order does not matter for the
# result, but for the work it does: pool first, and the convolution has a quarter of the pixels.

model = zoo.small("densenet121", image_size=32, blocks=(1, 2, 1))
network = decnn_tvm.load(model)

# %%
# A pass
# ------
# TVM has patterns for graphs. This one is an average pooling of a convolution; `rewrite_call`
# finds it and asks what to put there. Returning `call` itself declines.

data, weight = wildcard(), wildcard()
convolution = is_op("relax.nn.conv2d")(data, weight)
pattern = is_op("relax.nn.avg_pool2d")(convolution)


def pool_first(call: relax.Call, found: dict) -> relax.Expr:
    """Return the convolution of the pooled data, where that is the same."""
    conv, pool = found[convolution].attrs, call.attrs
    pointwise = [int(extent) for extent in found[weight].ty.shape][2:] == [1, 1]
    plain = {int(n) for n in conv.strides} == {1} and not any(map(int, conv.padding))
    whole = not any(map(int, pool.padding)) and not pool.ceil_mode
    if not (pointwise and plain and whole):
        return call
    pooled = relax.op.nn.avg_pool2d(
        found[data],
        pool_size=[int(n) for n in pool.pool_size],
        strides=[int(n) for n in pool.strides],
    )
    return relax.op.nn.conv2d(pooled, found[weight], groups=int(conv.groups))


# %%
# The class around it is what TVM calls a module pass. A module is a set of functions; the network
# is called ``main``.


@tvm.transform.module_pass(opt_level=0, name="mine.PoolBeforePointwise")
class PoolBeforePointwise:
    """Average before a 1x1 convolution rather than after it."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite ``main``."""
        result = mod.clone()
        changed = rewrite_call(pattern, pool_first, mod["main"])
        result.update_func(result.get_global_var("main"), changed)
        # One operator for each line again, as all passes of TVM expect.
        return relax.transform.Normalize()(result)


# %%
# A pass is a function from module to module, so try it before you compile anything:

improved = Network(network.name, PoolBeforePointwise()(network.module))
before, after = (decnn_tvm.inspect_network(each).macs for each in (network, improved))
print(f"{before:,} MACs before the pass, {after:,} after it")
assert after < before

# %%
# A schedule
# ----------
# The last layer is a matrix product. As a kernel it is a nest of loops called ``dense``, over
# blocks of outputs, the batch, the lanes of a vector, and the features that are summed. A *rule*
# gets every kernel of the network and returns a schedule for those it knows, None for the others.
#
# Whatever you do to a schedule, the result stays the same: TVM refuses a step that would change it.
# So you can be wrong about speed, but hardly about numbers.


class MyDense(ScheduleRule):
    """One vector of outputs at a time, four features for each turn of the loop."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Return the schedule of a dense layer."""
        sch = s_tir.Schedule(func)
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
        names = [sch.get(block).name_hint for block in blocks]
        if "dense" not in names:
            return None
        dense = blocks[names.index("dense")]
        outputs, batch, lane, feature = sch.get_loops(dense)
        feature, four = sch.split(feature, [None, 4])
        sch.reorder(outputs, batch, feature, four, lane)
        sch.unroll(four)
        sch.vectorize(lane)
        start = sch.decompose_reduction(dense, feature)
        sch.vectorize(sch.get_loops(start)[-1])
        self.taken.append(str(sch.mod["main"].script()))
        return sch


# %%
# Compile with both
# -----------------
# Your passes run on the whole network, batch norms already folded, before it is spread over
# devices. Your rules come before the library's own. Here the dense network is split over two.

rule = MyDense()
plain = decnn_tvm.compile(network, out / "plain.pkg", workers=2)
package = decnn_tvm.compile(
    network, out / "own.pkg", workers=2, passes=[PoolBeforePointwise()], schedules=[rule]
)
print(f"{len(rule.taken)} kernel scheduled by our rule, its loops:")
for line in rule.taken[0].splitlines():
    if line.strip().startswith("for "):
        print(line)
assert len(rule.taken) == 1

# %%
# The proof
# ---------
# ONNX Runtime has seen neither the pass nor the schedule.

images = list(np.random.default_rng(0).standard_normal((4, 1, 3, 32, 32), dtype="float32"))
reference = onnxruntime.InferenceSession(model.SerializeToString())
expected = np.stack([reference.run(None, {"input": image})[0] for image in images])
sent = {}
with decnn_tvm.LocalCluster(2) as cluster:
    for name, each in (("plain", plain), ("own", package)):
        with cluster.deploy(each) as session:
            results = np.stack(list(session.stream(images)))
            sent[name] = sum(device.sent_bytes_per_image for device in session.stats())
        error = float(np.abs(results - expected).max() / np.abs(expected).max())
        print(f"{name:6} largest error {error:.1e}, {sent[name]:,.0f} bytes sent for each image")
        assert error < 1e-5

# %%
# The smaller convolution also reads a smaller tensor, and where workers exchange that tensor they
# send less. Whether a pass or a schedule is *faster* is another question, which only a measurement
# on the device answers: ``session.stats()`` has the seconds of each worker, and a schedule that is
# slower than the library's own is easily written.

assert sent["own"] <= sent["plain"]

# %%
# When something is wrong
# -----------------------
# A pass that changes what the network takes or gives is refused, by name.


@tvm.transform.module_pass(opt_level=0, name="mine.Broken")
class Broken:
    """Forget the function."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return an empty module."""
        return tvm.IRModule()


try:
    decnn_tvm.compile(network, out / "broken.pkg", workers=2, passes=[Broken()])
except decnn_tvm.DecnnError as error:
    print("refused:", error)
else:
    raise AssertionError("an empty network was compiled")
