# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.passes import NormalizeImages
from decnn_tvm.passes.weights import inputs_of, weight_values
from tests.modules import assert_close, drawn, network

op = relax.op
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def _pixels(*shape):
    return np.random.default_rng(4).integers(0, 256, shape, dtype="uint8")


def _convolution(shape, **weights):
    def body(emit, x, w):
        return op.nn.conv2d(x, w, padding=1)

    return network(body, shape, weights={"w": drawn(4, 3, 3, 3)})


def _run(mod, x):
    func = mod["main"]
    values = [x, *weight_values(func).values()]
    bare = tvm.IRModule({"main": func.without_attr("params")})
    machine = relax.VirtualMachine(tvm.compile(bare, target="llvm"), tvm.cpu())
    return machine["main"](*map(tvm.runtime.tensor, values)).numpy()


def test_the_network_computes_what_it_did_on_normalized_pixels():
    x = _pixels(2, 3, 6, 5)
    mod = NormalizeImages(mean=MEAN, std=STD)(_convolution((2, 3, 6, 5)))
    (image,) = inputs_of(mod["main"])
    assert (image.name, str(image.ty.dtype)) == ("x", "uint8")
    assert [*weight_values(mod["main"])] == ["w", "x.scale", "x.shift"]
    normal = (torch.from_numpy(x).double() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / (
        torch.tensor(STD).view(1, 3, 1, 1)
    )
    weight = torch.from_numpy(drawn(4, 3, 3, 3)).double()
    expected = torch.nn.functional.conv2d(normal, weight, padding=1)
    assert_close(_run(mod, x), expected.numpy().astype("float32"), 1e-6)


def test_channels_may_come_last_and_one_number_may_serve_all():
    def body(emit, x):
        return op.permute_dims(x, [0, 3, 1, 2])

    x = _pixels(1, 4, 5, 3)
    mod = NormalizeImages(mean=[0.5], std=[0.25])(network(body, (1, 4, 5, 3)))
    assert_close(_run(mod, x), ((x / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2), 1e-6)


def test_a_name_that_is_taken():
    def body(emit, x, **weights):
        return op.nn.conv2d(x, weights["x.scale"])

    net = network(body, (1, 3, 4, 4), weights={"x.scale": drawn(2, 3, 1, 1)})
    names = [*weight_values(NormalizeImages(mean=MEAN, std=STD)(net)["main"])]
    assert names == ["x.scale", "x.scale.1", "x.shift"]


@pytest.mark.parametrize(
    ("shapes", "mean", "std", "message"),
    [
        ([(1, 3, 4, 4)], MEAN, (0.2, 0.0, 0.2), "std above 0"),
        ([(1, 3, 4, 4)], (np.nan,) * 3, STD, "expected numbers"),
        ([(1, 3, 4, 4)], MEAN, STD[:2], "as many numbers"),
        ([(1, 3, 4, 4)], MEAN[:2], STD[:2], "2 numbers for 'x', which has 3"),
        ([(1, 8, 4, 4)], MEAN, STD, "1 or 3 channels"),
        ([(1, 3)], MEAN, STD, r"'x' float32\(1, 3\)"),
        ([(1, 3, 4, 4), (1, 3, 4, 4)], MEAN, STD, "expected one float32 image"),
    ],
)
def test_what_cannot_be_normalized(shapes, mean, std, message):
    net = network(lambda emit, *inputs: op.negative(inputs[0]), *shapes)
    with pytest.raises(CompileError, match=message):
        NormalizeImages(mean=mean, std=std)(net)
