# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.errors import DecoupleError
from decnn_tvm.frontend import load
from decnn_tvm.passes import BindWeights, WidenChannels
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import random_inputs, reference_outputs
from tests.modules import drawn, with_values


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 3, 6, 6), "float32"),
        stem: R.Tensor((8, 3, 1, 1), "float32"),
        bias: R.Tensor((1, 8, 1, 1), "float32"),
        top: R.Tensor((4, 8, 3, 3), "float32"),
    ) -> R.Tensor((1, 4, 4, 4), "float32"):
        with R.dataflow():
            y = R.nn.conv2d(x, stem)
            s = R.add(y, bias)
            z = R.nn.relu(s)
            out = R.nn.conv2d(z, top)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, 3, 6, 6), "float32"),
        stem: R.Tensor((16, 3, 1, 1), "float32"),
        bias: R.Tensor((1, 16, 1, 1), "float32"),
        top: R.Tensor((4, 16, 3, 3), "float32"),
    ) -> R.Tensor((1, 4, 4, 4), "float32"):
        with R.dataflow():
            y = R.nn.conv2d(x, stem)
            s = R.add(y, bias)
            z = R.nn.relu(s)
            out = R.nn.conv2d(z, top)
            R.output(out)
        return out


def test_inner_channels_widen_and_outputs_stay():
    weights = [drawn(8, 3, 1, 1), drawn(1, 8, 1, 1), drawn(4, 8, 3, 3)]
    wide = WidenChannels(width=2, groups=2)(with_values(Before, *weights))
    values = weight_values(wide["main"])
    assert [*values] == ["stem", "bias", "top"]
    tvm.ir.assert_structural_equal(wide, with_values(Expected, *values.values()))


def _run(mod, x):
    built = tvm.compile(BindWeights()(mod), target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 32, {"width": 0.25}),
        ("vgg16_bn", 32, {"width": 0.125, "hidden": 32}),
        ("mobilenet_v2", 32, {"width": 0.25, "repeats": (1, 2, 1, 1, 1, 1, 1)}),
        pytest.param(
            "googlenet", 32, {"width": 0.125, "blocks": (1, 1, 1)}, marks=pytest.mark.slow
        ),
        ("densenet121", 32, {"blocks": (2, 2, 1, 1)}),
        ("squeezenet", 48, {"width": 0.25}),
    ],
)
def test_inherited_weights_compute_the_same_function(name, size, options):
    model = zoo.small(name, image_size=size, **options)
    x = random_inputs((1, 3, size, size), 1)[0]
    want = reference_outputs(model, [x])[0]
    module = load(model).module
    wide = WidenChannels(width=1.5, groups=2)(module)
    old, new = weight_values(module["main"]), weight_values(wide["main"])
    assert sum(v.size for v in new.values()) > 1.4 * sum(v.size for v in old.values())
    np.testing.assert_allclose(_run(wide, x), want, atol=1e-5 * abs(want).max())


def _resnet(**options):
    return from_onnx(zoo.small("resnet18", image_size=32), keep_params_in_input=True)


def test_counts():
    wide = weight_values(WidenChannels(width=1.6, groups=4)(_resnet())["main"])
    # 32 * 1.6 = 51.2, to the nearest multiple of 16: 48; 64 * 1.6 = 102.4: 96.
    assert wide["conv1.weight"].shape == (48, 3, 7, 7)
    assert wide["layer1.0.conv2.weight"].shape == (48, 48, 3, 3)
    assert wide["layer2.0.downsample.0.weight"].shape == (96, 48, 1, 1)
    assert wide["layer2.0.bn1.running_var"].shape == (96,)
    assert wide["fc.weight"].shape[0] == 10


def test_exact_channels_and_exclusion():
    options = {"channels": {"layer2.0.conv1": 36}, "exclude": ["layer1.0.conv1"]}
    wide = weight_values(WidenChannels(width=2, groups=2, **options)(_resnet())["main"])
    assert wide["layer2.0.conv2.weight"].shape[1] == 36
    assert wide["layer1.0.conv1.weight"].shape[:2] == (32, 64)


def test_fresh_weights_reset_batch_norm():
    wide = WidenChannels(width=1.5, groups=2, weights="fresh", seed=7)
    values = weight_values(wide(_resnet())["main"])
    again = weight_values(wide(_resnet())["main"])
    assert all(np.array_equal(values[name], again[name]) for name in values)
    assert (values["layer1.0.bn1.running_var"] == 1).all()
    assert (values["layer1.0.bn1.bias"] == 0).all()
    kernel = values["layer4.0.conv2.weight"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / np.prod(kernel.shape[1:])), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a factor above 0"),
        ({"width": 1.5, "channels": {"nope": 8}}, "no convolution is named 'nope'"),
        (
            {"width": 1.0, "channels": {"layer1.0.conv2": 64, "conv1": 48}},
            "'conv1' can't have 48 channels: it is tied",
        ),
    ],
)
def test_says_what_cannot_be_had(options, message):
    with pytest.raises(DecoupleError, match=message):
        WidenChannels(groups=2, **options)(_resnet())


def test_own_shuffles_are_not_widened():
    model = zoo.small("shufflenet_v1")
    with pytest.raises(DecoupleError, match="splits the channels"):
        WidenChannels(groups=2, width=1.5)(from_onnx(model, keep_params_in_input=True))
