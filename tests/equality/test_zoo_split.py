# SPDX-License-Identifier: Apache-2.0
"""Every network of the zoo, split over N devices, equals ONNX Runtime on the whole network.

The comparison refuses networks whose outputs hardly depend on the input, so that it can see a
mistake; `test_mistakes_are_seen` proves that it does.
"""

from __future__ import annotations

import pytest

from decnn_tvm.assignment import even_shares
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import split_outputs, temporary_package

WORKERS = (1, 2, 3, 4, 5, 8)
DECOUPLED = tuple(name for name in zoo.MODELS if name != "shufflenet_v1")
# ResNet-34 is made of ResNet-18's blocks, so its small version is slow work for little.
SMALL = tuple(name for name in zoo.MODELS if name != "resnet34")


# Every network at three workers, where no share comes out even, and other counts for one.
_DENSE = [
    *[(name, 3) for name in SMALL],
    *[("resnet18", workers) for workers in (1, 8)],
    pytest.param("resnet18", 5, marks=pytest.mark.slow),
    pytest.param("resnet34", 3, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "workers"), _DENSE)
def test_dense_network_is_split_exactly(name: str, workers: int) -> None:
    _check_dense(zoo.small(name), workers)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", zoo.MODELS)
def test_full_size_dense_network_is_split_exactly(name: str, workers: int) -> None:
    _check_dense(zoo.MODELS[name](), workers)


def _check_dense(model, workers: int) -> None:
    network = load(model)
    inputs = random_inputs(network.inputs[0].shape)
    with temporary_package(network, workers=workers) as package:
        outputs = split_outputs(package, inputs, [1] * workers)
    assert_logits_match(outputs, reference_outputs(model, inputs))


@pytest.mark.parametrize("name", [name for name in SMALL if name in DECOUPLED])
def test_decoupled_network_is_split_exactly(name: str) -> None:
    _check_decoupled(zoo.small(name), 4, {"workers": 3}, (2, 3, 4))


@pytest.mark.parametrize("name", ["resnet50", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_network_decoupled_in_two_is_split_exactly(name: str) -> None:
    _check_decoupled(zoo.small(name), 2, {"all_shares": True}, (1, 2))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("name", DECOUPLED)
def test_full_size_decoupled_network_is_split_exactly(name: str, groups: int) -> None:
    _check_decoupled(zoo.MODELS[name](), groups, {"all_shares": True}, range(1, groups + 1))


def _check_decoupled(model, groups: int, options, worker_counts) -> None:
    network = decouple(load(model), groups=groups, multiple=groups**2, weights="fresh")
    inputs = random_inputs(network.inputs[0].shape)
    reference = reference_outputs(to_onnx(network), inputs)
    with temporary_package(network, **options) as package:
        for workers in worker_counts:
            shares = even_shares(groups, workers)
            assert_logits_match(split_outputs(package, inputs, shares), reference)


def test_uneven_shares_of_a_dense_network() -> None:
    model = zoo.small("resnet18")
    network = load(model)
    inputs = random_inputs(network.inputs[0].shape)
    with temporary_package(network, shares=(3, 1, 2)) as package:
        outputs = split_outputs(package, inputs, (3, 1, 2))
    assert_logits_match(outputs, reference_outputs(model, inputs))
