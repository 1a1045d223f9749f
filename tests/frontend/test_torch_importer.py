# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from decnn_tvm.errors import ModelError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing.equality import (
    all_reference_outputs,
    assert_logits_match,
    random_inputs,
)
from decnn_tvm.testing.execution import plain_outputs


class SqueezeExcite(nn.Module):
    """Depthwise convolution, squeeze and excitation, SiLU: an EfficientNet block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.reduce = nn.Conv2d(16, 4, 1)
        self.expand = nn.Conv2d(4, 16, 1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.bn(self.stem(x)))
        x = functional.silu(self.depthwise(x))
        scale = self.expand(functional.silu(self.reduce(functional.adaptive_avg_pool2d(x, 1))))
        x = self.dropout((x * torch.sigmoid(scale)).mean([2, 3]))
        return self.fc(x)  # type: ignore[no-any-return]


class ShuffledHalves(nn.Module):
    """Channel split, group convolution, hard swish and shuffle: ShuffleNetV2 and MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = functional.hardswish(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, functional.relu6(self.branch(right))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(functional.hardsigmoid(x).mean([2, 3]))  # type: ignore[no-any-return]


class Upsampled(nn.Module):
    """Skip connection, transposed convolution, PReLU and two outputs: a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.deep = nn.Conv2d(8, 16, (1, 3), padding=(0, 2), dilation=(1, 2))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skip = self.act(self.down(x))
        deep = functional.leaky_relu(self.deep(functional.max_pool2d(skip, 2)), 0.1)
        x = self.out(torch.cat([skip, self.up(deep)], 1))
        larger = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return larger, functional.gelu(x)


NETWORKS = [SqueezeExcite, ShuffledHalves, Upsampled]


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = kind()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module.eval()


def exported(module: nn.Module, **options: object) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (torch.zeros(2, 3, 16, 16),), **options)


def torch_outputs(module: nn.Module, inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
    with torch.no_grad():
        results = [module(torch.from_numpy(x)) for x in inputs]
    return [
        [part.numpy() for part in (result if isinstance(result, tuple) else (result,))]
        for result in results
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_program_keeps_names_and_outputs(kind: type[nn.Module]) -> None:
    module = seeded(kind)
    network = load(exported(module), name="program")
    state = {k: v.numpy() for k, v in module.state_dict().items() if "num_batches" not in k}
    ours = weight_values(network.function)
    assert set(ours) == set(state)
    assert all(np.array_equal(ours[key], state[key]) for key in ours)
    inputs = random_inputs((2, 3, 16, 16), 3)
    expected = torch_outputs(module, inputs)
    for results in (
        plain_outputs(network.module, inputs),
        all_reference_outputs(to_onnx(network), inputs),
    ):
        for index in range(len(expected[0])):
            reference = [result[index] for result in expected]
            assert_logits_match([result[index] for result in results], reference, 1e-5)


def test_dynamic_batch_becomes_static() -> None:
    program = exported(seeded(SqueezeExcite), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert load(program, batch=3).inputs[0].shape == (3, 3, 16, 16)
    assert load(program, shapes={"x": (5, 3, 16, 16)}).outputs[0].shape == (5, 10)


def test_wrong_shapes_are_refused() -> None:
    program = exported(seeded(SqueezeExcite))
    with pytest.raises(ModelError, match=r"but the inputs are \['x'\]"):
        load(program, shapes={"image": (2, 3, 16, 16)})
    with pytest.raises(ModelError, match="was exported with"):
        load(program, shapes={"x": (2, 3, 8, 8)})


def test_loading_onnx_needs_no_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from decnn_tvm.frontend import load\n"
        "from decnn_tvm.testing import zoo\n"
        "print(load(zoo.small('alexnet')).name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], timeout=120, check=True, capture_output=True, text=True
    )
    assert result.stdout == "alexnet\n"
