# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.lowering import build_stages
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.stages import random_array, run_stage, stage_module, to_blocks

F = torch.nn.functional
HOST = resolve_target("host").target


def close(result: Any, expected: torch.Tensor) -> bool:
    reference = expected.numpy()
    same_shape = bool(result.shape == reference.shape)
    return same_shape and bool(np.abs(result - reference).max() <= 1e-5 * np.abs(reference).max())


@pytest.mark.parametrize(("batch", "features", "outputs"), [(1, 512, 10), (3, 33, 1000), (5, 7, 1)])
def test_dense_with_bias_and_softmax(batch: int, features: int, outputs: int) -> None:
    x, w, b = random_array(batch, features), random_array(features, outputs), random_array(outputs)

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        y = builder.emit(relax.op.add(builder.emit(relax.op.matmul(x, w)), b))
        return (y, relax.op.nn.softmax(y))

    logits, probabilities = run_stage(stage_module([x], [w, b], body), [x], [w, b])
    tensors = [torch.from_numpy(value).double() for value in (x, w, b)]
    expected = tensors[0] @ tensors[1] + tensors[2]
    assert close(logits, expected)
    assert close(probabilities, torch.softmax(expected, 1))


def test_a_block_with_every_usual_operator() -> None:
    """Convolution, scale and shift, residual, concat, pools, flatten, dense; both boundaries."""
    x = random_array(2, 28, 12, 11, seed=1)
    w1, w2 = random_array(28, 28, 3, 3, seed=2), random_array(56, 28, 1, 1, seed=3)
    scale, shift = random_array(1, 28, 1, 1, seed=4), random_array(1, 56, 1, 1, seed=5)
    wd, bd = random_array(84, 9, seed=6), random_array(9, seed=7)
    weights = [w1, w2, scale, shift, wd, bd]

    def body(
        builder: Any, x: Any, w1: Any, w2: Any, scale: Any, shift: Any, wd: Any, bd: Any
    ) -> Any:
        op, nn, emit = relax.op, relax.op.nn, builder.emit
        y = emit(op.multiply(emit(nn.conv2d(x, w1, padding=1)), scale))
        y = emit(op.clip(emit(op.add(y, x)), 0, 6))
        z = emit(op.sigmoid(emit(op.add(emit(nn.conv2d(y, w2)), shift))))
        both = emit(op.concat([z, y], axis=1))
        pooled = emit(nn.max_pool2d(both, (3, 3), (2, 2), (1, 1)))
        pooled = emit(nn.avg_pool2d(pooled, (2, 2), (2, 2), ceil_mode=True))
        flat = emit(op.reshape(emit(op.mean(pooled, [2, 3], keepdims=True)), (2, 84)))
        return (pooled, op.add(emit(op.matmul(flat, wd)), bd), op.astype(both, "float16"))

    attrs = {"decnn.input_blocks": [14], "decnn.output_blocks": [14, 1, 7]}
    mod = stage_module([x], weights, body, attrs=attrs)
    pooled, logits, half = run_stage(mod, [to_blocks(x, 14)], weights)
    tx, t1, t2, ts, th, td, tb = (torch.from_numpy(v).double() for v in [x, *weights])
    y = torch.clip(F.conv2d(tx, t1, padding=1) * ts + tx, 0, 6)
    both = torch.cat([torch.sigmoid(F.conv2d(y, t2) + th), y], 1)
    expected = F.avg_pool2d(F.max_pool2d(both, 3, 2, 1), 2, 2, ceil_mode=True)
    assert close(pooled, torch.from_numpy(to_blocks(expected.numpy(), 14)))
    assert close(logits, expected.mean((2, 3)) @ td + tb)
    assert half.dtype == np.float16
    assert np.abs(half - to_blocks(both.numpy(), 7)).max() <= 6 * 2**-11


def test_channel_selection_and_shuffle_stay_exact() -> None:
    x = random_array(1, 32, 5, 4)

    def body(builder: Any, x: Any) -> Any:
        op, emit = relax.op, builder.emit
        parts = emit(op.reshape(emit(op.nn.relu(x)), (1, 4, 8, 5, 4)))
        mixed = emit(op.reshape(emit(op.permute_dims(parts, [0, 2, 1, 3, 4])), (1, 32, 5, 4)))
        picked = emit(op.take(mixed, relax.const([3, 1, 30, 7], "int64"), axis=1))
        return (picked, op.strided_slice(mixed, [1], [8], [24]), x)

    attrs = {"decnn.input_blocks": [16], "decnn.output_blocks": [4, 8, 16]}
    mod = stage_module([x], [], body, attrs=attrs)
    picked, cut, same = run_stage(mod, [to_blocks(x, 16)], [])
    mixed = np.maximum(x, 0).reshape(1, 4, 8, 5, 4).transpose(0, 2, 1, 3, 4).reshape(1, 32, 5, 4)
    assert np.array_equal(picked, to_blocks(mixed[:, [3, 1, 30, 7]], 4))
    assert np.array_equal(cut, to_blocks(mixed[:, 8:24], 8))
    assert np.array_equal(same, to_blocks(x, 16))


def test_weights_are_packed_outside_the_stage() -> None:
    """The stage itself must hold no loops over weights alone."""
    x, w, b = random_array(1, 16, 6, 6), random_array(28, 16, 3, 3), random_array(1, 28, 1, 1)

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        return relax.op.add(builder.emit(relax.op.nn.conv2d(x, w)), b)

    attrs = {"decnn.input_blocks": [16], "decnn.output_blocks": [14]}
    mod = stage_module([x], [w, b], body, attrs=attrs)
    machine = relax.VirtualMachine(build_stages(mod, HOST), tvm.cpu())
    packed = machine["stage0_transform_params"]([tvm.runtime.tensor(v) for v in (w, b)])
    sizes = sorted(int(np.prod(value.shape)) for value in packed)
    lanes = 16 if sizes[1] == 2 * 9 * 16 * 16 else 14
    assert sizes == [28, 2 * 9 * 16 * lanes]


_WORKER = """
import ctypes, json, sys
import numpy as np, tvm_ffi
library, runtime, data = sys.argv[1:]
ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
machine = tvm_ffi.load_module(library)["vm_load_executable"]()
machine["vm_initialization"](1, 0, 2)

def aligned(value):
    buffer = np.empty(value.nbytes + 64, "u1")
    start = -buffer.ctypes.data % 64
    result = buffer[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    result[...] = value
    return tvm_ffi.from_dlpack(result)

arrays = np.load(data)
packed = machine["stage0_transform_params"]([aligned(arrays["w"]), aligned(arrays["b"])])
middle = machine["stage0"](aligned(arrays["x"]), *packed)
nothing = machine["stage1_transform_params"]([])
result = machine["stage1"](middle, *nothing)
both = [np.from_dlpack(value).tolist() for value in result]
sizes = [len(packed), len(nothing)]
print(json.dumps({"both": both, "packed": sizes, "tvm": "tvm" in sys.modules}))
"""


def test_a_library_runs_without_the_tvm_package(tmp_path: Path) -> None:
    x, w, b = random_array(1, 3, 6, 5), random_array(16, 3, 3, 3), random_array(1, 16, 1, 1)

    def convolve(builder: Any, x: Any, w: Any, b: Any) -> Any:
        return relax.op.add(builder.emit(relax.op.nn.conv2d(x, w)), b)

    def halves(builder: Any, x: Any) -> Any:
        return (relax.op.nn.relu(x), relax.op.negative(x))

    first = stage_module([x], [w, b], convolve, attrs={"decnn.output_blocks": [16]})
    middle = F.conv2d(torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(b.ravel()))
    second = stage_module(
        [middle.numpy()], [], halves, name="stage1", attrs={"decnn.input_blocks": [16]}
    )
    mod = tvm.IRModule({**dict(first.functions_items()), **dict(second.functions_items())})
    build_stages(mod, HOST).export_library(str(tmp_path / "stages.so"))
    np.savez(tmp_path / "data.npz", x=x, w=w, b=b)
    runtime = Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so"
    command = [str(tmp_path / "stages.so"), str(runtime), str(tmp_path / "data.npz")]
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["packed"] == [2, 0] and not answer["tvm"]
    assert close(np.array(answer["both"][0]), torch.relu(middle))
    assert close(np.array(answer["both"][1]), -middle)


def test_equal_layers_share_one_kernel() -> None:
    x, weights = random_array(1, 16, 6, 6), [random_array(16, 16, 3, 3, seed=i) for i in range(4)]

    def body(builder: Any, x: Any, *weights: Any) -> Any:
        for weight in weights:
            y = builder.emit(relax.op.nn.conv2d(x, weight, padding=1))
            x = builder.emit(relax.op.nn.relu(y))
        return x

    attrs = {"decnn.input_blocks": [16], "decnn.output_blocks": [16]}
    executable = build_stages(stage_module([x], weights, body, attrs=attrs), HOST)
    called = re.findall(r"call +(\w*conv2d\w*) in", executable.as_text())
    assert len(called) == 4 and len(set(called)) == 1


def test_an_operator_without_code_is_named() -> None:
    x = random_array(8)
    mod = stage_module([x], [], lambda _, x: relax.op.unique(x))
    with pytest.raises(CompileError, match=r"stage0.*relax\.run\.unique"):
        build_stages(mod, HOST)


def test_a_layer_without_schedule_is_named() -> None:
    x, w = random_array(1, 4, 6, 6, 6), random_array(8, 4, 3, 3, 3)
    mod = stage_module([x], [w], lambda _, x, w: relax.op.nn.conv3d(x, w))
    with pytest.raises(
        CompileError, match=r"no schedule for the layer 'conv3d'.*\(8, 4, 3, 3, 3\)"
    ):
        build_stages(mod, HOST)


def test_a_boundary_block_that_does_not_divide_is_refused() -> None:
    x = random_array(1, 12, 6, 6)
    mod = stage_module([x], [], lambda _, x: relax.op.nn.relu(x), attrs={"decnn.input_blocks": [5]})
    with pytest.raises(CompileError, match=r"stage0.*blocks of 5 channels.*12"):
        build_stages(mod, HOST)


LAYERS = {
    "conv2d": ((1, 16, 32, 32), (16, 16, 3, 3), lambda x, w: relax.op.nn.conv2d(x, w)),
    "depthwise": ((1, 32, 32, 32), (32, 1, 3, 3), lambda x, w: relax.op.nn.conv2d(x, w, groups=32)),
    "dense": ((1, 256), (256, 64), relax.op.matmul),
    "max_pool2d": ((1, 16, 64, 64), (1,), lambda x, _: relax.op.nn.max_pool2d(x, (3, 3))),
    "relu": ((1, 16, 64, 64), (1,), lambda x, _: relax.op.nn.relu(x)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("cores", [1, 2])
def test_kernels_are_spread_over_cores(layer: str, cores: int) -> None:
    shape, weight, body = LAYERS[layer]
    blocks = {"decnn.input_blocks": [16], "decnn.output_blocks": [16]} if len(shape) == 4 else {}
    x, w = random_array(*shape), random_array(*weight)
    mod = stage_module([x], [w], lambda _, x, w: body(x, w), attrs=blocks)
    target = resolve_target("host", cores=cores).target
    sources = [part.inspect_source("ll") for part in build_stages(mod, target).mod.imports]
    launched = any("__TVMBackendParallelLaunch" in source for source in sources)
    assert launched == (cores > 1)
