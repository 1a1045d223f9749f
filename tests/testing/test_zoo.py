# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_distinct, random_inputs, reference_outputs


@pytest.mark.parametrize("name", zoo.MODELS)
def test_random_inputs_give_different_logits(name: str) -> None:
    model = zoo.small(name)
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    outputs = reference_outputs(model, random_inputs(shape))
    assert outputs[0].shape == (1, 10)
    assert_distinct(outputs)


# Parameters as torchvision documents them, batch norm statistics not counted.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("alexnet", 61_100_840),
        ("mobilenet_v2", 3_504_872),
        ("squeezenet", 1_235_496),
        ("googlenet", 6_624_904),
        ("densenet121", 7_978_856),
    ],
)
def test_full_size_networks_have_the_published_parameters(name: str, parameters: int) -> None:
    weights = zoo.MODELS[name]().graph.initializer
    counted = [w for w in weights if w.name.endswith((".weight", ".bias"))]
    assert sum(int(np.prod(weight.dims)) for weight in counted) == parameters


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (zoo.small("resnet18", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("opset", [9, 13, 22])
@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet"])
def test_every_opset_runs(name: str, opset: int) -> None:
    model = zoo.small(name, opset=opset)
    assert reference_outputs(model, random_inputs((1, 3, 64, 64), 1))[0].shape == (1, 10)
