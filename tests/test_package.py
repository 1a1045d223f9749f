# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from decnn_tvm.errors import PackageError
from decnn_tvm.manifest import MANIFEST, TargetLibraries
from decnn_tvm.package import Package, write_manifest, write_weights
from decnn_tvm.plan import Plan, Weight
from decnn_tvm.runtime.weights import DeviceWeights
from tests.modules import drawn

SLICES = {
    "rows": [drawn(2, 3, seed=g) for g in range(3)],
    "columns": [drawn(4, 2, seed=g) for g in range(3)],
    "bias": [drawn(4), np.zeros(4, "float32"), np.zeros(4, "float32")],
    "whole": [drawn(5)],
}
COMBINE = {"rows": ("concat", 0), "columns": ("concat", 1), "bias": ("sum", 0)}


def _plan():
    weights = tuple(
        Weight(
            name=name,
            shape=pieces[0].shape,
            dtype="float32",
            combine=COMBINE.get(name, ("replicate", 0))[0],
            axis=COMBINE.get(name, ("replicate", 0))[1],
        )
        for name, pieces in SLICES.items()
    )
    empty = dict.fromkeys(("inputs", "outputs", "values", "stages", "movements"), ())
    return Plan(model="m", groups=3, decoupled=False, weights=weights, **empty)


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "package"
    names = write_weights(path, _plan(), SLICES)
    (path / "lib").mkdir()
    (path / "lib/groups1.so").write_bytes(b"code")
    library = TargetLibraries(
        target={"kind": "llvm"},
        machine="x86_64",
        features=("avx2",),
        libraries={1: "lib/groups1.so"},
    )
    return write_manifest(path, _plan(), {"host": library}, [*names, "lib/groups1.so"], workers=4)


def test_what_was_written_is_read(package):
    package.verify()
    again = Package(package.path)
    assert again.manifest == package.manifest
    assert again.plan == _plan()
    assert again.files_for("host", (1,)) == [
        "lib/groups1.so",
        "weights/shared.safetensors",
        "weights/group1.safetensors",
    ]


def test_shares_are_for_as_many_workers(package):
    assert package.manifest.shares is None and package.shares_for(4) is None
    planned = dataclasses.replace(
        package.manifest, workers=2, shares=(1, 2), worker_names=("slow", "fast")
    )
    _edit(package, lambda _: planned.to_json())
    again = Package(package.path)
    assert again.manifest == planned
    assert again.shares_for(2) == (1, 2) and again.shares_for(3) is None


def test_a_manifest_of_before_there_were_shares(package):
    keys = {"format", "versions", "targets", "files", "workers", "plan"}
    assert json.loads((package.path / MANIFEST).read_text()).keys() == keys
    assert Package(package.path).manifest.worker_names == ()


@pytest.mark.parametrize("groups", [(0,), (2,), (1, 2), (2, 0), (0, 1, 2)])
def test_weights_of_several_groups_are_joined(package, groups):
    weights = DeviceWeights(package, groups)
    held = sorted(groups)
    np.testing.assert_array_equal(
        weights["rows"], np.concatenate([SLICES["rows"][g] for g in held])
    )
    np.testing.assert_array_equal(
        weights["columns"], np.concatenate([SLICES["columns"][g] for g in held], axis=1)
    )
    np.testing.assert_array_equal(weights["bias"], SLICES["bias"][0] * (0 in groups))
    np.testing.assert_array_equal(weights["whole"], SLICES["whole"][0])
    for weight in package.plan.weights:
        assert weights[weight.name].shape == weight.local_shape(len(groups))


def test_damaged_and_missing_files(package):
    path = package.path / "weights/group1.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    package.verify(["weights/group0.safetensors"])
    with pytest.raises(PackageError, match=r"group1\.safetensors is damaged"):
        package.verify()
    path.write_bytes(content[:20])
    with pytest.raises(PackageError, match=r"group1\.safetensors"):
        DeviceWeights(package, (1,))["rows"]
    path.unlink()
    with pytest.raises(PackageError, match=r"group1\.safetensors is missing"):
        package.verify()
    with pytest.raises(PackageError, match=r"group1\.safetensors"):
        DeviceWeights(package, (1,))["rows"]


def test_folders_that_are_no_package(tmp_path):
    with pytest.raises(PackageError, match="no decnn-tvm package"):
        Package(tmp_path)
    with pytest.raises(PackageError, match="no decnn-tvm package"):
        Package(tmp_path / "nowhere")


def _edit(package, change):
    path = package.path / MANIFEST
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [1, 2], "not a decnn-tvm package"),
        (lambda d: {"name": "of another tool"}, "not a decnn-tvm package"),
        (lambda d: d | {"format": 99}, "format 99, expected 1"),
        (lambda d: {k: v for k, v in d.items() if k != "targets"}, "damaged"),
        (lambda d: {k: v for k, v in d.items() if k != "plan"}, "damaged"),
        (lambda d: d | {"plan": {}}, "plan: unreadable"),
        (lambda d: d | {"files": 3}, "damaged"),
        (lambda d: d | {"extra": 3}, "damaged"),
        (lambda d: d | {"shares": [1, 2]}, "damaged.*expected 4"),
        (lambda d: d | {"worker_names": ["a"]}, "damaged.*expected 4"),
        (lambda d: d | {"shares": ["many"] * 4}, "damaged"),
    ],
)
def test_foreign_manifests(package, change, message):
    _edit(package, change)
    with pytest.raises(PackageError, match=message):
        Package(package.path)


def test_a_manifest_that_is_no_text(package):
    for content in (b"{", b"\xff\xfe\x00", b""):
        (package.path / MANIFEST).write_bytes(content)
        with pytest.raises(PackageError, match="unreadable"):
            Package(package.path)


@pytest.mark.parametrize("name", ["../outside", "weights/../../outside", "/etc/hostname"])
def test_paths_that_leave_the_folder(package, name):
    (package.path.parent / "outside").write_text("secret")
    with pytest.raises(PackageError, match="no file of this package"):
        package.file(name)
    _edit(package, lambda d: d | {"files": d["files"] | {name: "0" * 64}})
    with pytest.raises(PackageError, match="no file of this package"):
        Package(package.path).file(name)
    with pytest.raises(PackageError, match="no file of this package"):
        Package(package.path).verify()


def test_links_that_leave_the_folder(package):
    outside = package.path.parent / "outside"
    shutil.move(package.path / "lib/groups1.so", outside)
    (package.path / "lib/groups1.so").symlink_to(outside)
    with pytest.raises(PackageError, match="no file of this package"):
        package.verify()


def test_targets_and_shares_that_are_not_there(package):
    with pytest.raises(PackageError, match="not for 'pi'"):
        package.library("pi", 1)
    with pytest.raises(PackageError, match="no library for 2 channel groups"):
        package.files_for("host", (0, 1))


def test_a_weight_that_no_file_holds(package):
    more = (*_plan().weights, Weight(name="gone", shape=(1,), dtype="float32", combine="concat"))
    data = _plan().to_json() | {"weights": [vars_of(w) for w in more]}
    _edit(package, lambda d: d | {"plan": data})
    with pytest.raises(PackageError, match="'gone' is missing"):
        DeviceWeights(Package(package.path), (0,))["gone"]


def vars_of(weight):
    return {name: getattr(weight, name) for name in ("name", "shape", "dtype", "combine", "axis")}
