# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import DecoupleError
from decnn_tvm.frontend import load, save_onnx
from decnn_tvm.passes.dataflow_graph import convolution, layer_name, read_graph, shape_of
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.presets import PRESETS
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import reference_outputs

# Tests are no package (importlib mode), so a neighbour is imported by its path.
_spec = importlib.util.spec_from_file_location(
    "reference_models", Path(__file__).with_name("reference_models.py")
)
assert _spec is not None and _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def _cost(func):
    """GMAC and M weights of the convolutions, and of the dense layers."""
    graph = read_graph(func)
    macs = weights = dense = 0
    for var in graph.data:
        call = convolution(graph.values.get(var))
        if call is not None:
            size = np.prod(shape_of(call.args[1]))
            weights += size
            macs += size * np.prod(shape_of(var)[2:])
        elif graph.call(var, "relax.matmul") is not None:
            dense += np.prod(shape_of(graph.values[var].args[1]))
    return macs / 1e9, weights / 1e6, dense / 1e6


def _decoupled(preset):
    name = preset.split("-")[0]
    hidden = {} if "resnet" in name else {"hidden": 64}
    return decouple(load(zoo.MODELS[name](**hidden)), preset=preset)


# Convolutions with the dense layer, as the published table prints them for ResNet.
@pytest.mark.parametrize(
    ("preset", "gmac", "params"),
    [
        ("resnet50-x1.5", 2.41, 16.3),
        ("resnet50-x1.75", 3.25, 21.6),
        ("resnet34-x1.5", 2.17, 12.7),
        ("resnet34-x1.75", 2.92, 17.2),
    ],
)
def test_cost_of_residual_presets(preset, gmac, params):
    macs, weights, dense = _cost(_decoupled(preset).function)
    assert macs + dense / 1e3 == pytest.approx(gmac, abs=0.0051)
    assert weights + dense == pytest.approx(params, abs=0.051)


@pytest.mark.parametrize(
    ("preset", "gmac", "params", "classifier"),
    [
        pytest.param("vgg16_bn", 11.46, 10.5, 123.6, marks=pytest.mark.slow),
        ("alexnet", 0.676, 2.20, 58.6),
    ],
)
def test_cost_of_plain_presets(preset, gmac, params, classifier):
    # One image: a dense layer's MACs are its weights (VGG-16: 0.124 G).
    network = decouple(load(zoo.MODELS[preset]()), preset=preset)
    macs, weights, dense = _cost(network.function)
    assert dense == pytest.approx(classifier, abs=0.051)
    assert macs == pytest.approx(gmac, abs=10.0 ** -(2 if gmac > 1 else 3) * 0.51)
    assert weights == pytest.approx(params, abs=0.051 if params > 10 else 0.0051)


def test_shuffles_after_the_published_layers():
    for preset, indices in {"vgg16_bn": (5, 9), "alexnet": (3,)}.items():
        graph = read_graph(_decoupled(preset).function)
        seen, places = 0, []
        for var in graph.data:
            seen += convolution(graph.values.get(var)) is not None
            if graph.call(var, "relax.permute_dims") is not None:
                places.append(seen)
        assert tuple(places) == indices == PRESETS[preset].shuffle_after


def _run(network, x, folder):
    path = folder / "network.onnx"
    save_onnx(network, path)
    return reference_outputs(path, [x])[0]


def _filled(model, values):
    state = model.state_dict()
    for name, tensor in state.items():
        if name in values:
            assert tuple(tensor.shape) == values[name].shape, name
            state[name] = torch.tensor(values[name])
        else:
            assert name.endswith("num_batches_tracked"), name
    model.load_state_dict(state)
    return model.eval()


def _dense_part(values, prefixes, features):
    for i, prefix in enumerate(prefixes):
        features = features @ torch.tensor(values[f"{prefix}.weight"]).T
        features = features + torch.tensor(values[f"{prefix}.bias"])
        features = torch.relu(features) if i < len(prefixes) - 1 else features
    return features


@pytest.mark.parametrize(
    ("preset", "model", "size"),
    [
        ("resnet34-x1.5", lambda: reference.DecoupledResNet(34, 96, classes=10), 32),
        ("resnet50-x1.75", lambda: reference.DecoupledResNet(50, 112, classes=10), 32),
        ("vgg16_bn", reference.DecoupledVgg16, 32),
        ("alexnet", reference.DecoupledAlexNet, 63),
    ],
)
def test_equals_an_independent_definition(preset, model, size, tmp_path):
    name = preset.split("-")[0]
    hidden = {} if "resnet" in name else {"hidden": 32}
    dense = load(zoo.MODELS[name](image_size=size, classes=10, **hidden))
    network = decouple(dense, preset=preset)
    values = weight_values(network.function)
    torch.manual_seed(0)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        want = _filled(model(), values)(x)
        if "resnet" not in name:
            fcs = ["classifier.0", "classifier.3", "classifier.6"]
            fcs = fcs if name != "alexnet" else ["classifier.1", "classifier.4", "classifier.6"]
            want = _dense_part(values, fcs, want.flatten(1))
    got = _run(network, x.numpy(), tmp_path)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5 * float(want.abs().max()))
    other = decouple(dense, preset=preset, order="shufflenet")
    reversed_shuffle = _run(other, x.numpy(), tmp_path)
    assert abs(reversed_shuffle - want.numpy()).max() > 1e-3 * float(want.abs().max())


def test_a_preset_names_what_it_is_for():
    network = load(zoo.small("resnet18"))
    with pytest.raises(DecoupleError, match="this network has 12"):
        decouple(network, preset="resnet34-x1.5")
    with pytest.raises(DecoupleError, match=r"expected one of.*resnet50-x1\.75"):
        decouple(network, preset="resnet51")
    with pytest.raises(DecoupleError, match="leave them out"):
        decouple(network, preset="resnet34-x1.5", width=2.0)


def test_layer_names_survive():
    network = decouple(load(zoo.small("resnet18", image_size=32)), groups=2)
    graph = read_graph(network.function)
    calls = [convolution(graph.values.get(var)) for var in graph.data]
    names = [layer_name(call) for call in calls if call is not None]
    assert "layer2.0.downsample.0" in names and network.groups == 2
