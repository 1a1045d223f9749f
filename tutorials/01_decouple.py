# SPDX-License-Identifier: Apache-2.0
"""
Decouple a CNN and look at what became of it
============================================

A convolution reads every channel of the layer before it. Split a network over four devices, and
each of them needs what the other three computed, after every single layer. *Decoupling* changes the
network so that it does not: convolutions become **group convolutions**, a few **channel shuffles**
let the groups mix, and **more channels** win back what the network lost.

You need ``pip install 'decnn-tvm[compiler]'`` and no knowledge of TVM. The files that this script
writes are in ``tutorial-out/``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

import decnn_tvm
from decnn_tvm.testing import zoo

out = Path("tutorial-out")
out.mkdir(exist_ok=True)

# %%
# A network
# ---------
# `load` takes an ONNX file. With PyTorch that is ``torch.onnx.export(model.eval(), image,
# "mine.onnx")``, and then::
#
#     dense = decnn_tvm.load("mine.onnx")
#
# A ``torch.export.ExportedProgram`` works too (tutorial 4). Here it is a ResNet-18 with half the
# channels, half the blocks and images of 32x32, so that everything takes seconds. Its weights are
# random: good for comparing, useless for classifying.

model = zoo.small("resnet18", image_size=32)
dense = decnn_tvm.load(model)
print("input ", dense.inputs[0].name, dense.inputs[0].shape)
print("output", dense.outputs[0].name, dense.outputs[0].shape)

# %%
# What is in it
# -------------
# `inspect_network` counts without running anything. For every layer it also says whether it could
# become a group convolution, and if not, why not. (``decnn inspect mine.onnx`` prints the same.)

report = decnn_tvm.inspect_network(dense, groups=4)
for layer in report.layers:
    if layer.macs:
        verdict = "can be decoupled" if layer.can_decouple else layer.reason
        print(f"{layer.name:22} {layer.macs:>10,} MACs {layer.parameters:>8,} weights  {verdict}")

# %%
# The stem reads three channels of an image, so there is nothing to divide. The classifier is left
# dense too: a device multiplies the features that it has, and the partial sums are added.
#
# Decouple it
# -----------
# Four groups, so for at most four devices, with 1.5 times the channels, and shuffles where the
# default puts them: after each stage of the ResNet but the last. The paper's own structures have
# names: ``decouple(dense, preset="resnet50-x1.75")``.

grouped = decnn_tvm.decouple(dense, groups=4, width=1.5)
after = decnn_tvm.inspect_network(grouped)
print(f"MACs       {report.macs:>10,} dense, {after.macs:>10,} decoupled")
print(f"weights    {report.parameters:>10,} dense, {after.parameters:>10,} decoupled")

# %%
# A group convolution with G groups costs 1/G of a dense one; 1.5 times the channels on both sides
# cost 1.5 * 1.5 = 2.25 times as much. So each of those layers should cost 2.25 / 4 of what it did:

before = {layer.name: layer.macs for layer in report.layers if layer.can_decouple}
now = {layer.name: layer.macs for layer in after.layers if layer.groups == 4}
assert before.keys() == now.keys()
ratios = {now[name] / before[name] for name in now}
print("MACs of a decoupled layer, relative to the dense one:", sorted(ratios))
assert ratios == {1.5 * 1.5 / 4}

# %%
# What a shuffle does
# -------------------
# Without shuffles a decoupled network would be four narrow networks that never talk. A shuffle
# deals the channels out anew: new group b takes the channels i with i mod G = b. It is three
# operators that you know from PyTorch, ``view``, ``transpose``, ``reshape``; here by NumPy on 16
# channels:

channels = np.arange(16)
shuffled = channels.reshape(4, 4).transpose().reshape(16)
for group, members in enumerate(shuffled.reshape(4, 4)):
    print(f"new group {group} gets the channels {members.tolist()}, one of each old group")

# %%
# Shuffles are also all that devices have to send each other, so there are few:

shuffles = [layer for layer in after.layers if layer.kind == "permute_dims"]
for layer in shuffles:
    print(f"a shuffle of {layer.shape[1] * layer.shape[2]} channels, {layer.shape[3:]} pixels")

# %%
# Under the bonnet
# ----------------
# A `Network` holds a module of TVM's graph language, *Relax*. It reads like a function of PyTorch
# with all types written out. Here are its first three convolutions, the stem and two group
# convolutions:

lines = [line.strip() for line in grouped.module.script().splitlines()]
for line in [line for line in lines if "R.nn.conv2d(" in line][:3]:
    print(line)

# %%
# `decouple` is nothing but three passes over that module, and you may apply them yourself. A pass
# takes a module and returns a new one; TVM's `Sequential` is a list of them, like
# ``torch.nn.Sequential``. Tutorial 6 writes one.

import tvm

from decnn_tvm import passes

by_hand = tvm.transform.Sequential(
    [
        passes.WidenChannels(width=1.5, groups=4, multiple=16),
        passes.InsertChannelShuffle(groups=4, after="stage", follow=True),
        passes.DecoupleConvolutions(groups=4),
    ]
)(dense.module)
tvm.ir.assert_structural_equal(by_hand, grouped.module)
print("the three passes give the same network")

# %%
# It is an ordinary network
# -------------------------
# Nothing about a decoupled network is ours alone: written to ONNX, any other tool runs it.

decnn_tvm.save_onnx(grouped, out / "grouped.onnx")
image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype="float32")
(before_logits,) = onnxruntime.InferenceSession(model.SerializeToString()).run(
    None, {"input": image}
)
(after_logits,) = onnxruntime.InferenceSession(out / "grouped.onnx").run(None, {"input": image})
print("dense    ", np.round(before_logits[0, :4], 3))
print("decoupled", np.round(after_logits[0, :4], 3))
assert not np.allclose(before_logits, after_logits, atol=1e-2)

# %%
# **The answers differ, and they should.** Three quarters of each layer's connections are gone.
# Decoupling is a change of architecture, and the network has to be trained in its new form:
# tutorial 4. A network that you may not change can be split too, without changing any answer:
# tutorial 2.
#
# What it buys
# ------------
# Compile the network for four devices, and ask the package what they will exchange.
# ``all_shares=False`` compiles for exactly four; by default there is code for every number from 1
# to 4, so that survivors can take over from a device that is lost.

package = decnn_tvm.compile(grouped, out / "grouped.pkg", workers=4, all_shares=False)
for movement in package.plan.movements:
    print(f"{movement.kind:10} {movement.source} -> {movement.target}")
exchanges = [m for m in package.plan.movements if m.kind == "all_to_all"]
assert len(exchanges) == len(shuffles)
print(f"{len(exchanges)} exchanges between the devices, one for each shuffle")
