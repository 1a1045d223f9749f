# SPDX-License-Identifier: Apache-2.0
"""Errors of `compile_network`, and that it writes the same package twice."""

from __future__ import annotations

import pytest
from tvm import relax

from decnn_tvm.compiler import compile_network
from decnn_tvm.errors import CompileError, PartitionError
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from tests.modules import drawn, network

op = relax.op


@pytest.fixture(scope="module")
def dense():
    def body(emit, x, w, b, v):
        y = emit(op.nn.conv2d(x, w))
        y = emit(op.nn.relu(emit(op.add(y, b))))
        return op.mean(emit(op.nn.relu(emit(op.nn.conv2d(y, v)))), [2, 3])

    weights = {"w": drawn(8, 3, 3, 3), "b": drawn(1, 8, 1, 1), "v": drawn(4, 8, 1, 1)}
    return Network("tiny", network(body, (1, 3, 6, 6), weights=weights))


@pytest.fixture(scope="module")
def decoupled(dense):
    func = dense.function.with_attr("decnn.groups", 2)
    module = dense.module.clone()
    module.update_func(module.get_global_var("main"), func)
    return Network("halves", module)


def test_the_same_package_twice_with_every_share(dense, tmp_path):
    steps = []
    first = compile_network(
        dense,
        tmp_path / "a",
        workers=2,
        all_shares=True,
        progress=lambda *step: steps.append(step),
    )
    first.verify()
    assert [step[1:] for step in steps] == [(i, 4) for i in range(4)]
    (target,) = first.manifest.targets.values()
    assert sorted(target.libraries) == [1, 2]
    second = compile_network(dense, tmp_path / "b", workers=2, all_shares=True)
    assert second.plan == first.plan
    weights = [name for name in first.manifest.files if name.startswith("weights/")]
    assert weights and {first.manifest.files[n] == second.manifest.files[n] for n in weights} == {
        True
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_an_older_package_is_replaced_and_nothing_else(dense, tmp_path):
    out = tmp_path / "package"
    compile_network(dense, out, workers=1)
    (out / "stray").write_text("left over")
    assert compile_network(dense, out, workers=2).plan.groups == 2
    assert not (out / "stray").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not lose")
    for path in (mine, mine / "thesis.txt"):
        with pytest.raises(CompileError, match="is no package, so it is not replaced"):
            compile_network(dense, path, workers=2)
    assert (mine / "thesis.txt").read_text() == "do not lose"


def test_a_failure_keeps_the_older_package(dense, tmp_path, monkeypatch):
    out = tmp_path / "package"
    before = compile_network(dense, out, workers=1).manifest

    def fail(*_):
        raise CompileError("no linker")

    monkeypatch.setattr("decnn_tvm.package_writer.link_shared_library", fail)
    with pytest.raises(CompileError, match="no linker"):
        compile_network(dense, out, workers=2)
    assert Package(out).manifest == before
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "workers=N"),
        ({"workers": 0}, "at least 1"),
        ({"workers": 2, "shares": (1, 1, 1)}, "3 workers"),
        ({"shares": ()}, "at least 1"),
        ({"shares": (2, 0)}, "at least 1"),
        ({"workers": 2, "wire": "int3"}, "int3"),
        ({"workers": 2, "strategy": "columns"}, "'columns'; expected one of"),
        ({"strategy": "rows"}, "to be split by 'rows'.*workers=N"),
        ({"strategy": "single", "workers": 2}, "'single' is one worker's"),
        ({"strategy": "pipeline", "workers": 2, "row_tiles": 2}, "row_tiles=2"),
        ({"strategy": "pipeline", "workers": 500}, "500 stages asked for"),
        ({"strategy": "rows", "workers": 40}, "40 strips of the .* rows"),
    ],
)
def test_what_a_dense_network_cannot_be_split_into(dense, tmp_path, options, message):
    with pytest.raises(PartitionError, match=message):
        compile_network(dense, tmp_path / "package", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, "G=2"),
        ({"shares": (1, 1, 1)}, "G=2"),
        ({"shares": (2, 1)}, "G=2"),
        ({"shares": (1,)}, "add up to 2"),
    ],
)
def test_more_than_a_decoupled_network_has(decoupled, tmp_path, options, message):
    with pytest.raises(PartitionError, match=message):
        compile_network(decoupled, tmp_path / "package", **options)
    assert not [*tmp_path.iterdir()]


def test_an_unknown_target(dense, tmp_path):
    with pytest.raises(CompileError, match="abacus"):
        compile_network(dense, tmp_path / "package", workers=1, targets=["abacus"])


def test_a_decoupled_network_gets_a_library_for_every_share(decoupled, dense, tmp_path):
    package = compile_network(decoupled, tmp_path / "halves")
    (target,) = package.manifest.targets.values()
    assert sorted(target.libraries) == [1, 2] and package.manifest.workers == 2
    package = compile_network(decoupled, tmp_path / "one", workers=1, all_shares=False)
    (target,) = package.manifest.targets.values()
    assert sorted(target.libraries) == [2] and package.manifest.workers == 1
    package = compile_network(dense, tmp_path / "dense", workers=2)
    (target,) = package.manifest.targets.values()
    assert sorted(target.libraries) == [1]
