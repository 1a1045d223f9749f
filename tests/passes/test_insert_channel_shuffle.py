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
from decnn_tvm.passes import InsertChannelShuffle
from decnn_tvm.passes.dataflow_graph import layer_name, read_graph, shape_of
from decnn_tvm.passes.insert_channel_shuffle import channel_shuffle
from decnn_tvm.passes.shuffle_places import shuffle_places
from decnn_tvm.testing import zoo
from tests.modules import drawn, with_values


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 3, 6, 6), "float32"),
        stem: R.Tensor((8, 3, 1, 1), "float32"),
        a: R.Tensor((8, 8, 3, 3), "float32"),
        b: R.Tensor((8, 8, 3, 3), "float32"),
    ) -> R.Tensor((1, 8, 2, 2), "float32"):
        with R.dataflow():
            s = R.nn.conv2d(x, stem)
            y = R.nn.conv2d(s, a)
            z = R.nn.relu(y)
            out = R.nn.conv2d(z, b)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, 3, 6, 6), "float32"),
        stem: R.Tensor((8, 3, 1, 1), "float32"),
        a: R.Tensor((8, 8, 3, 3), "float32"),
        b: R.Tensor((8, 8, 3, 3), "float32"),
    ) -> R.Tensor((1, 8, 2, 2), "float32"):
        with R.dataflow():
            s = R.nn.conv2d(x, stem)
            y = R.nn.conv2d(s, a)
            relu = R.nn.relu(y)
            parts = R.reshape(relu, R.shape([1, 4, 2, 4, 4]))
            swapped = R.permute_dims(parts, axes=[0, 2, 1, 3, 4])
            z = R.reshape(swapped, R.shape([1, 8, 4, 4]))
            out = R.nn.conv2d(z, b)
            R.output(out)
        return out


def test_shuffle_follows_the_activation() -> None:
    weights = [drawn(8, 3, 1, 1), drawn(8, 8, 3, 3), drawn(8, 8, 3, 3)]
    shuffled = InsertChannelShuffle(groups=2, after=1)(with_values(Before, *weights))
    tvm.ir.assert_structural_equal(shuffled, with_values(Expected, *weights))


def _shuffled(order, data, groups):
    x = relax.Var("x", relax.TensorType(data.shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(channel_shuffle(builder, x, groups, order))
        builder.emit_func_output(out)
    built = tvm.compile(builder.get(), target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(data)).numpy()


@pytest.mark.parametrize("groups", [2, 4])
def test_orders(groups):
    channels = 2 * groups**2
    data = np.random.default_rng(0).standard_normal((1, channels, 3, 5)).astype("float32")
    order = [i for b in range(groups) for i in range(channels) if i % groups == b]
    decnn = _shuffled("decnn", data, groups)
    assert np.array_equal(decnn, data[:, order])
    shufflenet = _shuffled("shufflenet", data, groups)
    assert np.array_equal(shufflenet[:, order], data)
    assert not np.array_equal(decnn, shufflenet)


def _module(name, **options):
    return from_onnx(zoo.small(name, **options), keep_params_in_input=True)


def _places(mod, where):
    """For each shuffle: the convolutions that read it."""
    graph = read_graph(mod["main"])
    readers = []
    for place in shuffle_places(graph, 2, where):
        names, queue = set(), [place]
        while queue:
            for user in graph.consumers[queue.pop()]:
                value = graph.values[user]
                if graph.call(user, "relax.nn.conv2d") is None:
                    continue
                names.add(layer_name(value))
        readers.append(names)
    return readers


def test_places_in_a_resnet():
    mod = _module("resnet50", blocks=(2, 1, 1, 2))
    stages = [{f"layer{i}.0.conv1", f"layer{i}.0.downsample.0"} for i in (2, 3, 4)]
    assert _places(mod, "stage") == stages
    blocks = [{"layer1.1.conv1"}, *stages, {"layer4.1.conv1"}]
    assert _places(mod, "block") == blocks
    assert _places(mod, ["layer2.0.conv3"]) == [stages[1]]
    # Three convolutions deep per block: every fourth falls into the middle of every second one.
    assert _places(mod, 4) == [stages[0], stages[2]]


def test_resnet50_has_fifteen_blocks_to_shuffle_after():
    mod = from_onnx(
        zoo.resnet(50, image_size=32, width=0.125, classes=4), keep_params_in_input=True
    )
    assert len(_places(mod, "block")) == 15
    assert len(_places(mod, "stage")) == 3


def test_every_reader_sees_the_shuffle():
    mod = _module("resnet18", blocks=(1, 1, 1, 1))
    after = InsertChannelShuffle(groups=2)(mod)
    graph = read_graph(after["main"])
    transposed = [v for v in graph.data if graph.call(v, "relax.permute_dims") is not None]
    assert len(transposed) == 3
    for var in transposed:
        (shuffled,) = graph.consumers[var]
        assert len(graph.consumers[shuffled]) == 2
        (split,) = graph.data[var]
        batch, channels, *image = shape_of(shuffled)
        assert shape_of(split) == (batch, channels // 2, 2, *image)
        (activation,) = graph.data[split]
        assert graph.consumers[activation] == (split,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("everywhere", "'stage', 'block'"),
        (0, "at least 1"),
        (["nope"], "no such convolutions; expected some of"),
        (["layer4.0.conv2"], "no place for a channel shuffle"),
    ],
)
def test_says_what_cannot_be_had(where, message):
    with pytest.raises(DecoupleError, match=message):
        InsertChannelShuffle(groups=2, after=where)(_module("resnet18"))


def test_channels_that_do_not_divide():
    with pytest.raises(DecoupleError, match=r"divide by 64, and .* has 32; widen"):
        InsertChannelShuffle(groups=8)(_module("resnet18"))
    with pytest.raises(DecoupleError, match="order"):
        InsertChannelShuffle(groups=2, order="random")
