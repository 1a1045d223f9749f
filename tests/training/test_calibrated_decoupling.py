# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional

from decnn_tvm.channel_assignment import ChannelAssignment, Channels, Layer, Side
from decnn_tvm.channel_layout import ChannelLayout
from decnn_tvm.decoupling import choose_structure, decouple, widening_pass
from decnn_tvm.errors import DecoupleError, TrainingError
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.passes.insert_channel_shuffle import InsertChannelShuffle
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.training import decouple_calibrated, to_torch
from decnn_tvm.training.least_squares import _patches
from decnn_tvm.training.trained_weights import replace_weights

STRUCTURES: list[dict[str, Any]] = [
    {"shuffle": "stage"},
    {"shuffle": "block", "width": 1.5},
    {"shuffle": None, "width": 1.75},
    {"shuffle": 3, "order": "shufflenet"},
]


def images(net: Network, count: int = 16, seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(random_inputs(net.inputs[0].shape, count, seed=seed)))


def regrouped(net: Network, *, order: Any = "decnn", **options: Any) -> Network:
    """Return the dense network with shuffles, its channels in a random order that fits them."""
    settings = {"width": 1.0, "multiple": 16, "channels": None, "preset": None, **options}
    structure = choose_structure(net, groups=4, **settings)
    widening = widening_pass(structure)
    layout = ChannelLayout(net.function, structure, widening, order, ())
    chosen = ChannelAssignment(layout.channels(), [], 4)._drawn(np.random.default_rng(0))
    passes: list[Any] = [widening]
    if structure.shuffle is not None:
        passes.append(InsertChannelShuffle(groups=4, after=structure.shuffle, order=order))
    shaped = Network(net.name, tvm.transform.Sequential(passes)(net.module))
    return replace_weights(shaped, layout.weights(chosen))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg16_bn", "alexnet", "mobilenet_v2", "squeezenet", "densenet121"]
)
def test_any_order_of_channels_is_exact_before_decoupling(
    name: str, structure: dict[str, Any]
) -> None:
    net = load(zoo.small(name))
    if structure["shuffle"] == "block" and name in ("vgg16_bn", "alexnet"):
        structure = {**structure, "shuffle": 2}
    changed = regrouped(net, **structure)
    inputs = random_inputs(net.inputs[0].shape)
    assert_logits_match(
        reference_outputs(to_onnx(changed), inputs), reference_outputs(to_onnx(net), inputs), 1e-5
    )


class Grouped(nn.Module):
    """Group convolutions with a residual sum, their channels hidden in a random order."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.bn = nn.BatchNorm2d(32)
        self.conv1 = self._hidden(groups)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = self._hidden(groups)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def _hidden(self, groups: int) -> nn.Conv2d:
        conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        group = torch.arange(32) % groups
        with torch.no_grad():
            conv.weight *= (group[:, None] == group[None])[..., None, None]
        return conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        y = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(y)) + x)
        return self.fc(x.mean([2, 3]))  # type: ignore[no-any-return]


def test_hidden_groups_are_found_and_nothing_is_lost() -> None:
    torch.manual_seed(0)
    module = Grouped().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    net = load(torch.export.export(module, (torch.zeros(2, 3, 12, 12),)), name="hidden")
    inputs = random_inputs((2, 3, 12, 12), 3)
    with torch.no_grad():
        reference = [module(torch.from_numpy(x)).numpy() for x in inputs]
    found = decouple_calibrated(net, images(net), shuffle=None)
    assert_logits_match(reference_outputs(to_onnx(found), inputs), reference, 1e-4)
    natural = reference_outputs(to_onnx(decouple(net, shuffle=None)), inputs)
    assert np.abs(natural[0] - reference[0]).max() > 0.01 * np.abs(reference[0]).max()


def error(net: Network, reference: Network, x: torch.Tensor) -> float:
    """Return the mean squared error of the logits, relative to their variance."""
    with torch.no_grad():
        wanted, got = to_torch(reference)(x), to_torch(net)(x)
    return float((got - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("options", [{}, {"width": 1.5}])
def test_each_step_of_calibration_comes_nearer_to_the_dense_network(
    options: dict[str, float],
) -> None:
    net = load(zoo.small("resnet18"))
    seen, unseen = images(net, 48), images(net, 32, seed=6)
    naive = error(decouple(net, multiple=16, **options), net, unseen)
    grouped = error(decouple_calibrated(net, seen, multiple=16, fit=False, **options), net, unseen)
    fitted = decouple_calibrated(net, seen, multiple=16, **options)
    assert fitted.groups == 4
    assert error(fitted, net, unseen) < grouped < naive


def test_a_fitted_layer_is_that_of_least_squares() -> None:
    torch.manual_seed(3)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 9, 4)
    ).eval()
    net = load(torch.export.export(plain, (torch.zeros(1, 3, 3, 3),)), name="plain")
    x = images(net, 200)
    fitted = weight_values(decouple_calibrated(net, x, groups=2, shuffle=None, starts=1).function)
    with torch.no_grad():
        # The stem is permuted like everything else, so its outputs come from the fitted weights.
        stem = functional.conv2d(
            x, torch.from_numpy(fitted["0.weight"]), torch.from_numpy(fitted["0.bias"])
        ).relu()
        dense = plain[2](plain[1](plain[0](x)))
    # The columns of the last layer tell which dense output each new one stands for.
    columns = plain[4].weight.detach().numpy()[:, ::9]
    distances = np.abs(columns[:, :, None] - fitted["4.weight"][:, None, ::9]).sum(0)
    matches = distances.argmin(0)
    assert sorted(matches) == list(range(8))
    for group in range(2):
        rows = stem[:, group * 4 : group * 4 + 4].permute(0, 2, 3, 1).reshape(-1, 4).numpy()
        rows = np.hstack([rows, np.ones((len(rows), 1))])
        for j in range(group * 4, group * 4 + 4):
            y = dense[:, matches[j]].reshape(-1).numpy()
            best, *_ = np.linalg.lstsq(rows, y, rcond=None)
            ours = np.append(fitted["2.weight"][j].reshape(-1), fitted["2.bias"][j])
            residual, least = (np.square(rows @ w - y).mean() for w in (ours, best))
            assert residual <= 1.001 * least


def test_the_search_never_ends_below_the_natural_order() -> None:
    random = np.random.default_rng(1)
    owners = np.arange(16) // 4

    def side(key: int) -> Side:
        index = np.stack([np.full(16, key), np.arange(16)], axis=1)
        return Side(channels=index, positions=index, owners=owners)

    layers = [
        Layer(outputs=side(a), inputs=side(b), energy=random.random((16, 16)) ** 4)
        for a, b in ((0, 1), (1, 2), (2, 0))
    ]
    classes = {key: Channels(old=16, new=16, free=key != 2) for key in range(3)}
    search = ChannelAssignment(classes, layers, 4)
    chosen = search.solve(starts=6)
    assert search.kept(chosen) > search.kept(search.natural())
    assert all(sorted(chosen[key]) == list(range(16)) for key in range(3))
    assert list(chosen[2]) == list(range(16))


def test_what_can_not_be_regrouped_is_refused() -> None:
    net = load(zoo.small("resnet18"))
    with pytest.raises(DecoupleError, match="width"):
        decouple_calibrated(net, images(net, 2), preset="resnet50-x1.5", width=1.5)
    with pytest.raises(TrainingError, match="NaN"):
        decouple_calibrated(net, images(net, 2) * float("nan"))


@pytest.mark.parametrize("seed", range(5))
def test_patches_of_some_pixels_are_those_of_pytorch(seed: int) -> None:
    random = np.random.default_rng(seed)
    kernel, stride, dilation = (tuple(random.integers(1, 4, 2).tolist()) for _ in range(3))
    top, left, bottom, right = random.integers(0, 3, 4).tolist()
    x = torch.from_numpy(random.standard_normal((2, 3, 11, 9)))
    padded = functional.pad(x, (left, right, top, bottom))
    every = functional.unfold(padded, kernel, dilation, 0, stride)
    pixels = torch.from_numpy(random.permutation(every.shape[2])[:7])
    found = _patches(x, pixels, kernel, stride, (top, left, bottom, right), dilation)
    torch.testing.assert_close(found, every[:, :, pixels], rtol=0, atol=0)
