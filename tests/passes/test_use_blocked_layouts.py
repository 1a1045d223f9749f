# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.passes.use_blocked_layouts import UseBlockedLayouts


def operators(mod: tvm.IRModule) -> list[str]:
    block = mod["main"].body.blocks[0]
    return [binding.value.op.name.removeprefix("relax.") for binding in block.bindings[:-1]]


def test_a_convolution_between_blocked_boundaries() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 28, 8, 8), "float32"),
            w: R.Tensor((56, 28, 3, 3), "float32"),
            b: R.Tensor((1, 56, 1, 1), "float32"),
        ) -> R.Tensor((1, 56, 6, 6), "float32"):
            R.func_attr({"decnn.input_blocks": [14], "decnn.output_blocks": [14], "num_input": 1})
            with R.dataflow():
                y = R.nn.conv2d(x, w)
                z = R.add(y, b)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 2, 8, 8, 14), "float32"),
            w: R.Tensor((56, 28, 3, 3), "float32"),
            b: R.Tensor((1, 56, 1, 1), "float32"),
        ) -> R.Tensor((1, 4, 6, 6, 14), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                w1 = R.reshape(w, (4, 14, 2, 14, 3, 3))
                w2 = R.permute_dims(w1, [0, 2, 4, 5, 3, 1])
                w3 = R.reshape(w2, (4, 2, 3, 3, 14, 14))
                y = R.nn.conv2d(
                    x,
                    w3,
                    data_layout="NCHW14c",
                    kernel_layout="OIHW14i14o",
                    out_layout="NCHW14c",
                )
                b1 = R.reshape(b, (1, 4, 1, 1, 14))
                z = R.add(y, b1)
                gv = z
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(UseBlockedLayouts()(Before), Expected)


def test_a_residual_block_changes_no_layout_inside() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 32, 8, 8), "float32"),
            w: R.Tensor((32, 16, 3, 3), "float32"),
        ) -> R.Tensor((1, 32, 4, 4), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                y = R.nn.conv2d(x, w, padding=1, groups=2)
                z = R.nn.relu(R.add(y, x))
                p = R.nn.max_pool2d(z, (2, 2), (2, 2))
                R.output(p)
            return p

    into = ["reshape", "permute_dims"]
    out = ["permute_dims", "reshape"]
    weights = ["reshape", "permute_dims", "reshape"]
    inside = ["nn.conv2d", "add", "nn.relu", "nn.max_pool2d"]
    found = operators(UseBlockedLayouts()(Before))
    assert found in ([*weights, *into, *inside, *out], [*into, *weights, *inside, *out])


def test_channels_that_make_no_block_stay_plain() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 17, 8, 8), "float32")) -> R.Tensor((1, 17, 8, 8), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                y = R.nn.relu(x)
                gv = y
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(UseBlockedLayouts()(Before), Before)
