# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.errors import DecoupleError
from decnn_tvm.passes import BindWeights, DecoupleConvolutions
from decnn_tvm.passes.weights import weight_values


def _network(stride=1, kernel=3, size=7, concat=False, outputs=24):
    """A stem, a decoupled convolution (or two, joined by a concat), and a 1x1 on top."""
    x = relax.Var("x", relax.TensorType((1, 3, size, size), "float32"))
    shapes = {
        "stem.weight": (8, 3, 3, 3),
        "a.weight": (16, 8, kernel, kernel),
        "b.weight": (8, 8, kernel, kernel),
        "top.weight": (outputs, 24 if concat else 16, 1, 1),
    }
    weights = {n: relax.Var(n, relax.TensorType(s, "float32")) for n, s in shapes.items()}
    rng = np.random.default_rng(1)
    values = [tvm.runtime.tensor(rng.standard_normal(s).astype("float32")) for s in shapes.values()]
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *weights.values()]):
        with builder.dataflow():
            stem = builder.emit(relax.op.nn.conv2d(x, weights["stem.weight"], padding=1))
            pad, steps = kernel // 2, (stride, stride)
            y = builder.emit(
                relax.op.nn.conv2d(stem, weights["a.weight"], strides=steps, padding=pad)
            )
            if concat:
                z = builder.emit(
                    relax.op.nn.conv2d(stem, weights["b.weight"], strides=steps, padding=pad)
                )
                y = builder.emit(relax.op.nn.relu(builder.emit(relax.op.concat([y, z], 1))))
            top = builder.emit_output(relax.op.nn.conv2d(y, weights["top.weight"]))
        builder.emit_func_output(top)
    mod = builder.get()
    func = mod["main"].with_attr("num_input", 1).with_attr("params", values)
    mod.update_func(mod.get_global_var("main"), func)
    return mod


def _run(mod, x):
    built = tvm.compile(BindWeights()(mod), target=tvm.target.Target({"kind": "llvm"}))
    return relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def _grouped(x, dense, groups, **options):
    """The diagonal blocks of a dense weight, one slice of channels at a time."""
    out, into = dense.shape[0] // groups, dense.shape[1] // groups
    parts = [
        torch.nn.functional.conv2d(
            x[:, g * into : (g + 1) * into],
            torch.tensor(dense[g * out : (g + 1) * out, g * into : (g + 1) * into]),
            **options,
        )
        for g in range(groups)
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize(
    ("groups", "stride", "kernel"), [(2, 1, 3), (4, 2, 3), (8, 1, 1), (4, 2, 1), (4, 1, 5)]
)
def test_keeps_the_diagonal_blocks(groups, stride, kernel):
    mod = _network(stride, kernel)
    w = weight_values(mod["main"])
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 7)).astype("float32")
    decoupled = DecoupleConvolutions(groups=groups)(mod)
    want = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w["stem.weight"]), padding=1)
    want = _grouped(want, w["a.weight"], groups, stride=stride, padding=kernel // 2)
    want = _grouped(want, w["top.weight"], groups).numpy()
    np.testing.assert_allclose(_run(decoupled, x), want, atol=2e-5 * abs(want).max())
    assert int(decoupled["main"].attrs["decnn.groups"]) == groups
    assert abs(_run(mod, x) - want).max() > 0.1 * abs(want).max()


def test_concat_groups_by_ownership():
    groups = 4
    mod = _network(concat=True)
    w = weight_values(mod["main"])
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 7)).astype("float32")
    stem = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w["stem.weight"]), padding=1)
    a = _grouped(stem, w["a.weight"], groups, padding=1)
    b = _grouped(stem, w["b.weight"], groups, padding=1)
    parts = []
    for g in range(groups):
        own = [*range(4 * g, 4 * g + 4), *range(16 + 2 * g, 18 + 2 * g)]
        data = torch.relu(torch.cat([a, b], 1)[:, own])
        kernel = torch.tensor(w["top.weight"][6 * g : 6 * g + 6][:, own])
        parts.append(torch.nn.functional.conv2d(data, kernel))
    want = torch.cat(parts, 1).numpy()
    got = _run(DecoupleConvolutions(groups=groups)(mod), x)
    np.testing.assert_allclose(got, want, atol=2e-5 * abs(want).max())


def test_structure():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"),
            stem: R.Tensor((4, 3, 1, 1), "float32"),
            dense: R.Tensor((8, 4, 1, 1), "float32"),
            depth: R.Tensor((8, 1, 3, 3), "float32"),
            kept: R.Tensor((8, 8, 1, 1), "float32"),
        ):
            with R.dataflow():
                a = R.nn.conv2d(x, stem)
                b = R.nn.conv2d(a, dense)
                c = R.nn.conv2d(b, depth, padding=1, groups=8)
                d = R.nn.conv2d(c, kept)
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"),
            stem: R.Tensor((4, 3, 1, 1), "float32"),
            dense: R.Tensor((8, 2, 1, 1), "float32"),
            depth: R.Tensor((8, 1, 3, 3), "float32"),
            kept: R.Tensor((8, 8, 1, 1), "float32"),
        ):
            with R.dataflow():
                a = R.nn.conv2d(x, stem)
                b = R.nn.conv2d(a, dense, groups=2)
                c = R.nn.conv2d(b, depth, padding=1, groups=8)
                d = R.nn.conv2d(c, kept)
                R.output(d)
            return d

    func = Before["main"]
    zeros = [
        tvm.runtime.tensor(np.zeros([int(n) for n in v.ty.shape], "float32"))
        for v in func.params[1:]
    ]
    mod = tvm.IRModule({"main": func.with_attr("num_input", 1).with_attr("params", zeros)})
    after = DecoupleConvolutions(groups=2, exclude=["kept"])(mod)["main"]
    for name in ("global_symbol", "num_input", "params", "decnn.groups"):
        after = after.without_attr(name)
    tvm.ir.assert_structural_equal(after, Expected["main"].without_attr("global_symbol"))


def test_fresh_weights_are_he_normal_and_seeded():
    mod = _network()

    def draw(seed):
        made = DecoupleConvolutions(groups=2, weights="fresh", seed=seed)(mod)
        return weight_values(made["main"])["a.weight"]

    assert np.array_equal(draw(3), draw(3)) and not np.array_equal(draw(3), draw(4))
    assert draw(3).std() == pytest.approx(np.sqrt(2 / (4 * 9)), rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "'a' has 8 input and 16 output channels.*3 groups; exclude it"),
        ({"groups": 2, "exclude": ["nope"]}, "nope.*expected some of.*stem"),
    ],
)
def test_says_what_cannot_be_had(options, message):
    with pytest.raises(DecoupleError, match=message):
        DecoupleConvolutions(**options)(_network())


def test_rejects_bad_options():
    with pytest.raises(DecoupleError, match="groups must be a whole number"):
        DecoupleConvolutions(groups=0)
    with pytest.raises(DecoupleError, match="'inherit' or 'fresh'"):
        DecoupleConvolutions(groups=2, weights="old")
