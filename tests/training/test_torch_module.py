# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import ModelError, TrainingError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.passes.dataflow_graph import read_graph
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.training import from_torch, to_torch
from decnn_tvm.training.torch_module import dense_layers
from tests.modules import drawn, network

TOLERANCE = 1e-5


def outputs(module: nn.Module, inputs: list[Any]) -> list[Any]:
    with torch.no_grad():
        return [module(torch.from_numpy(x)).numpy() for x in inputs]


def checked(net: Network, module: nn.Module) -> None:
    """Assert that a module computes what ONNX Runtime computes of its network."""
    inputs = random_inputs(net.inputs[0].shape)
    assert_logits_match(outputs(module, inputs), reference_outputs(to_onnx(net), inputs), TOLERANCE)


@pytest.mark.parametrize("name", sorted(zoo.MODELS))
def test_dense_networks_of_the_zoo(name: str) -> None:
    net = load(zoo.small(name))
    module = to_torch(net)
    assert set(module.state_dict()) == set(weight_values(net.function))
    checked(net, module)


@pytest.mark.parametrize("order", ["decnn", "shufflenet"])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet", "mobilenet_v2", "vgg16_bn", "alexnet"])
def test_decoupled_networks_come_back_trained(name: str, order: Any) -> None:
    net = decouple(load(zoo.small(name)), multiple=16, order=order, shuffle=2, weights="fresh")
    module = to_torch(net).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    torch.manual_seed(0)
    x = torch.randn(4, *net.inputs[0].shape[1:])
    functional.cross_entropy(module(x), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    optimizer.step()
    trained = from_torch(net, module)
    before, after = weight_values(net.function), weight_values(trained.function)
    assert all(np.array_equal(after[key], value) for key, value in module.state_dict().items())
    moved = sum(not np.array_equal(before[key], after[key]) for key in before)
    assert moved > 0.9 * len(before)
    assert trained.groups == net.groups
    checked(trained, module.eval())


class Plain(nn.Module):
    """A decoupled network in PyTorch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = functional.relu(self.bn2(self.branch(x)) + x)
        return self.fc(x.mean([2, 3]))  # type: ignore[no-any-return]


def exported(module: nn.Module) -> Network:
    program = torch.export.export(module, (torch.zeros(2, 3, 12, 12),))
    return load(program, name="plain")


def test_gradients_statistics_and_steps_are_those_of_plain_pytorch() -> None:
    torch.manual_seed(1)
    plain = Plain().eval()
    ours = to_torch(exported(plain)).train()
    plain.train()
    torch.manual_seed(2)
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        for m in (plain, ours)
    ]
    for _ in range(3):
        x, y = torch.randn(8, 3, 12, 12), torch.randint(0, 10, (8,))
        for module, optimizer in zip((plain, ours), optimizers, strict=True):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
        gradients = {name: p.grad for name, p in plain.named_parameters()}
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    state = ours.state_dict()
    for name, value in plain.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)


def test_batch_size_layout_copies_and_files() -> None:
    net = decouple(load(zoo.small("resnet18")), multiple=16)
    module = to_torch(net)
    x = torch.from_numpy(np.concatenate(random_inputs(net.inputs[0].shape, 6)))
    with torch.no_grad():
        expected = module(x)
        last = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(module)(x), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).dtype == torch.bfloat16
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = to_torch(decouple(load(zoo.small("resnet18", seed=1)), multiple=16))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(fresh(x), expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_module_computes_the_same_and_comes_back() -> None:
    net = exported(Plain().eval())
    module = to_torch(net)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 3, 12, 12)
    torch.testing.assert_close(compiled(x), module(x))
    assert from_torch(net, compiled).inputs == net.inputs


def test_dropout_before_dense_layers_in_training_alone() -> None:
    net = load(zoo.small("alexnet"))
    names = list(dense_layers(read_graph(net.function)).values())
    assert names == ["classifier.1", "classifier.4", "classifier.6"]
    module = to_torch(net, dropout={"classifier.1": 0.5, "classifier.4": 0.25})
    rates = [part.p for part in module.modules() if isinstance(part, nn.Dropout)]
    assert rates == [0.5, 0.25]
    checked(net, module)
    x = torch.from_numpy(random_inputs(net.inputs[0].shape, 1)[0])
    module.train()
    assert not torch.equal(module(x), module(x))
    assert len([m for m in to_torch(net, dropout=0.1).modules() if isinstance(m, nn.Dropout)]) == 3
    with pytest.raises(TrainingError, match=r"dropout before \['fc'\].*classifier\.1"):
        to_torch(net, dropout={"fc": 0.5})
    with pytest.raises(TrainingError, match="expected a probability"):
        to_torch(net, dropout=1.5)


def test_an_unknown_operator_is_named_with_those_that_are_known() -> None:
    from tvm import relax

    module = network(lambda emit, x: emit(relax.op.cumsum(x, 1)), (1, 4))
    with pytest.raises(ModelError, match=r"relax\.cumsum.*known are abs, add"):
        to_torch(Network("net", module))


def test_what_mixes_samples_is_refused() -> None:
    from tvm import relax

    for body, words in (
        (lambda emit, x: emit(relax.op.reshape(x, (8, 3))), "changes the batch"),
        (lambda emit, x: emit(relax.op.permute_dims(x, [1, 0])), "moves axis 0"),
        (lambda emit, x: emit(relax.op.mean(x, [0])), "would mix samples"),
    ):
        with pytest.raises(ModelError, match=words):
            to_torch(Network("net", network(body, (2, 12))))


def test_operators_beyond_the_zoo() -> None:
    from tvm import relax

    def body(emit: Any, x: Any) -> Any:
        padded = emit(relax.op.nn.pad(x, (0, 0, 0, 0, 1, 2, 0, 1)))
        left, right = (
            emit(relax.op.strided_slice(padded, [1], [a], [b])) for a, b in ((0, 2), (2, 4))
        )
        parts = emit(relax.op.concat([emit(relax.op.nn.silu(right)), left], 1))
        taken = emit(relax.op.take(parts, relax.const([3, 0, 2, 1], "int64"), axis=1))
        pooled = emit(relax.op.nn.max_pool2d(taken, (3, 3), (2, 2), padding=(0, 1, 1, 1)))
        squared = emit(relax.op.multiply(pooled, relax.const(0.5)))
        return emit(relax.op.nn.softmax(emit(relax.op.nn.gelu(squared)), axis=1))

    net = Network("net", network(body, (1, 4, 6, 6)))
    x = drawn(3, 4, 6, 6)
    ours = outputs(to_torch(net), [x])[0]
    padded = functional.pad(torch.from_numpy(x), (0, 1, 1, 2))
    parts = torch.cat([functional.silu(padded[:, 2:]), padded[:, :2]], 1)[:, [3, 0, 2, 1]]
    pooled = functional.max_pool2d(functional.pad(parts, (1, 1, 0, 1), value=float("-inf")), 3, 2)
    expected = functional.gelu(0.5 * pooled).softmax(1).numpy()
    assert np.abs(ours - expected).max() < 1e-6


def test_weights_of_another_network_and_diverged_ones_are_refused() -> None:
    net = load(zoo.small("resnet18"))
    state = to_torch(net).state_dict()
    with pytest.raises(TrainingError, match=r"'fc\.bias': expected \(10,\), got none"):
        from_torch(net, {k: v for k, v in state.items() if k != "fc.bias"})
    state["fc.bias"] = torch.full((10,), float("nan"))
    with pytest.raises(TrainingError, match="diverged"):
        from_torch(net, state)


class Wrapped(nn.Module):
    """A model whose own layers bear a wrapper's name, as a file written from `DataParallel`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)  # type: ignore[no-any-return]


def test_weights_whose_names_begin_like_a_wrappers_come_back() -> None:
    net = load(torch.export.export(Wrapped().eval(), (torch.zeros(1, 3, 5, 5),)), name="wrapped")
    module = to_torch(net)
    assert "module.0.weight" in module.state_dict()
    for given in (module, nn.DataParallel(module), {f"_orig_mod.{k}": v for k, v in
                                                    module.state_dict().items()}):  # fmt: skip
        found = weight_values(from_torch(net, given).function)
        for name, value in weight_values(net.function).items():
            np.testing.assert_array_equal(found[name], value)
