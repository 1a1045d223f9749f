# SPDX-License-Identifier: Apache-2.0
"""The equality tests can fail: each planted mistake in a movement or weight is seen."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.package import Package, write_manifest
from decnn_tvm.runtime import steps
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import split_outputs, temporary_package
from decnn_tvm.transfers import Transfer, transfers

GROUPS = 2
SHARES = (1, 1)


@pytest.fixture(scope="module")
def network():
    model = zoo.small("resnet18")
    return decouple(load(model), groups=GROUPS, multiple=GROUPS**2, weights="fresh")


@pytest.fixture(scope="module")
def inputs(network) -> list[np.ndarray]:
    return random_inputs(network.inputs[0].shape)


@pytest.fixture(scope="module")
def reference(network, inputs) -> list[np.ndarray]:
    return reference_outputs(to_onnx(network), inputs)


@pytest.fixture(scope="module")
def package(network) -> Iterator[Package]:
    with temporary_package(network, workers=GROUPS) as made:
        yield made


def _shuffles(package: Package) -> list[int]:
    return [i for i, m in enumerate(package.plan.movements) if m.kind == "all_to_all"]


def _plant(
    monkeypatch: pytest.MonkeyPatch,
    package: Package,
    shuffle: int,
    mistake: Callable[[list[Transfer]], list[Transfer]],
) -> None:
    """Change the transfers of one shuffle, on every device alike."""
    movement = package.plan.movements[_shuffles(package)[shuffle]]

    def wrong(plan: Any, moved: Any, assignment: Any) -> list[Transfer]:
        right = transfers(plan, moved, assignment)
        return mistake(right) if moved == movement else right

    monkeypatch.setattr(steps, "transfers", wrong)


def _is_seen(package: Package, inputs: list[np.ndarray], reference: list[np.ndarray]) -> bool:
    try:
        assert_logits_match(split_outputs(package, inputs, SHARES), reference)
    except AssertionError as error:
        return "is off by" in str(error)
    return False


def test_without_a_mistake_nothing_is_seen(package, inputs, reference) -> None:
    assert_logits_match(split_outputs(package, inputs, SHARES), reference)


@pytest.mark.parametrize("shuffle", range(3))
def test_a_dropped_exchange(monkeypatch, package, inputs, reference, shuffle: int) -> None:
    def keep_local(right: list[Transfer]) -> list[Transfer]:
        return [t for t in right if t.source == t.target]

    _plant(monkeypatch, package, shuffle, keep_local)
    assert _is_seen(package, inputs, reference)


@pytest.mark.parametrize("shuffle", range(3))
def test_two_swapped_slices(monkeypatch, package, inputs, reference, shuffle: int) -> None:
    def swap(right: list[Transfer]) -> list[Transfer]:
        first, second = [t for t in right if t.target == 0]
        return [
            dataclasses.replace(first, runs=_with_targets(first, second)),
            dataclasses.replace(second, runs=_with_targets(second, first)),
            *(t for t in right if t.target != 0),
        ]

    _plant(monkeypatch, package, shuffle, swap)
    assert _is_seen(package, inputs, reference)


def _with_targets(own: Transfer, other: Transfer) -> tuple[Any, ...]:
    pairs = zip(own.runs, other.runs, strict=True)
    return tuple(dataclasses.replace(run, target=theirs.target) for run, theirs in pairs)


def test_swapped_weights(tmp_path, package, inputs, reference) -> None:
    wrong = tmp_path / "package"
    shutil.copytree(package.path, wrong)
    first, second = (wrong / f"weights/group{group}.safetensors" for group in range(GROUPS))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    manifest = package.manifest
    damaged = write_manifest(
        wrong, manifest.plan, manifest.targets, list(manifest.files), workers=4
    )
    assert _is_seen(damaged, inputs, reference)


def test_a_reversed_shuffle(inputs) -> None:
    model = zoo.small("resnet18")
    options = {"groups": 4, "multiple": 16, "weights": "fresh", "shuffle": "stage"}
    ours = decouple(load(model), order="decnn", **options)
    other = decouple(load(model), order="shufflenet", **options)
    with temporary_package(ours, workers=4) as made:
        outputs = split_outputs(made, inputs, (1, 1, 1, 1))
    assert_logits_match(outputs, reference_outputs(to_onnx(ours), inputs))
    with pytest.raises(AssertionError, match="is off by"):
        assert_logits_match(outputs, reference_outputs(to_onnx(other), inputs))
