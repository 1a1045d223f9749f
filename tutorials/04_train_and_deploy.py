# SPDX-License-Identifier: Apache-2.0
"""
Train a decoupled network and deploy it
=======================================

From a network in plain PyTorch to four workers that classify with it: export it, decouple it, train
it in its new form, compile what was trained, and compare.

You need ``pip install 'decnn-tvm[train]'``. **The images are synthetic**: stripes in four
directions under noise, made below. They are good for showing the steps in seconds; accuracies on
them say nothing about real tasks. For those see docs/RESULTS.md. Files go to ``tutorial-out/``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import decnn_tvm
from decnn_tvm.training import (
    ImageBatches,
    ImageData,
    LabelledImages,
    Recipe,
    accuracy,
    decouple_calibrated,
    from_torch,
    to_torch,
    train,
)

out = Path("tutorial-out")
out.mkdir(exist_ok=True)
torch.manual_seed(0)
torch.set_num_threads(1)

# %%
# Images
# ------
# Four classes: the grey changes along 0, 45, 90 or 135 degrees, in stripes of random width and
# place, under noise.


def stripes(count: int, seed: int) -> LabelledImages:
    """Return `count` images of 16x16 pixels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    angle = labels * np.pi / 4
    row, column = np.mgrid[:16, :16]
    along = np.cos(angle)[:, None, None] * column + np.sin(angle)[:, None, None] * row
    phase, width = random.uniform(0, 6.3, (count, 1, 1)), random.uniform(0.8, 1.4, (count, 1, 1))
    grey = 128 + 40 * np.sin(along * width + phase)
    noisy = grey[..., None] + random.normal(0, 110, (count, 16, 16, 3))
    return LabelledImages(pixels=noisy.clip(0, 255).astype("uint8"), labels=labels)


data = ImageData(
    train=stripes(1024, seed=1), test=stripes(256, seed=2), classes=("0", "45", "90", "135")
)
batches = ImageBatches(data, mean=[0.5], std=[0.25], batch_size=64, augment=False)

# %%
# A network of your own
# ---------------------
# Plain PyTorch; it is trained as you always train, and exported by PyTorch's own exporter.


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


mine = nn.Sequential(
    block(3, 16, 1),
    block(16, 32, 2),
    block(32, 64, 2),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 4),
)
recipe = Recipe(epochs=6, learning_rate=0.05, schedule="cosine")
train(mine, batches, recipe, out / "dense-run")
dense_accuracy = accuracy(mine, batches)
print(f"dense network: {dense_accuracy:.1%} of the test images")

program = torch.export.export(mine.eval(), (torch.zeros(1, 3, 16, 16),))
dense = decnn_tvm.load(program, name="stripes")

# %%
# Decouple it
# -----------
# `decouple_calibrated` looks at images, without labels, and puts those channels into one group that
# need each other most; then it fits each group convolution to what the dense one gave. Here four
# groups of 1.5 times the channels, with a shuffle after the second convolution, named as PyTorch
# names its module: ``1.0``.

plain = decnn_tvm.decouple(dense, groups=4, width=1.5, shuffle=["1.0"])
print(f"decoupled, groups as they happen to be: {accuracy(to_torch(plain), batches):.1%}")

images = batches.calibration(128)
grouped = decouple_calibrated(dense, images, groups=4, width=1.5, shuffle=["1.0"])

# %%
# Train it
# --------
# `to_torch` gives the decoupled network back as an `nn.Module`. It is ordinary PyTorch code, made
# from the very graph that is compiled later; train it with your own loop and data, or with the one
# that comes along. It keeps a checkpoint in its folder and goes on from there the next time; delete
# the folder to start anew. (The dense network learned as long as this one does, and the decoupled
# one started from what it knew: do not compare the two numbers. docs/RESULTS.md trains both alike.)

module = to_torch(grouped)
start_accuracy = accuracy(module, batches)
print(f"decoupled, groups chosen, before training: {start_accuracy:.1%}")
history = train(module, batches, recipe, out / "grouped-run")
for record in history:
    print(f"epoch {record.epoch}: loss {record.loss:.3f}, {record.accuracy:.1%} of the test images")

trained = from_torch(grouped, module)
trained_accuracy = accuracy(module, batches)
print(f"decoupled, after training: {trained_accuracy:.1%}")
assert trained_accuracy > 0.5  # one in four would be chance

# %%
# Compile it, with small numbers on the wire
# ------------------------------------------
# With mean and deviation given, workers take pixels and normalise them themselves, a quarter of the
# bytes. ``wire="int8"`` does the same for what they exchange; its scales are found on images.


def samples(images: np.ndarray) -> list[np.ndarray]:
    """Return (N, H, W, C) pixels as N samples (1, C, H, W)."""
    return list(np.ascontiguousarray(images.transpose(0, 3, 1, 2))[:, None])


pixels = samples(data.test.pixels[:128])
package = decnn_tvm.compile(
    trained,
    out / "stripes.pkg",
    workers=4,
    all_shares=False,
    wire="int8",
    calibration=samples(data.train.pixels[:32]),
    image_mean=[0.5],
    image_std=[0.25],
)

# %%
# Deploy it
# ---------
# What counts: do the four workers classify as the module did?

with decnn_tvm.LocalCluster(4) as cluster, cluster.deploy(package) as session:
    answers = [int(np.argmax(logits)) for logits in session.stream(pixels, in_flight=4)]
with torch.no_grad():
    normal = (torch.from_numpy(np.concatenate(pixels)).float() / 255 - 0.5) / 0.25
    wanted = module(normal).argmax(1).tolist()
same = np.mean([a == b for a, b in zip(answers, wanted, strict=True)])
right = np.mean(np.array(answers) == data.test.labels[:128])
print(f"four workers: {right:.1%} right, {same:.1%} as PyTorch says, with int8 between them")
assert same >= 0.95

# %%
# int8 rounds what travels, so an image on the fence may fall to the other side; ``wire="float32"``
# gives PyTorch's answers but for the rounding of sums. ``decnn finetune`` does all of this from a
# shell, with folders of images, checkpoints and a report: docs/TRAINING.md.
