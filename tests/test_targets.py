# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
from typing import Any

import pytest

from decnn_tvm.errors import CompileError
from decnn_tvm.targets import known_targets, missing_features, resolve_target


def test_the_host_can_run_its_own_code() -> None:
    host = resolve_target("host")
    assert host.machine == {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )
    assert missing_features(host.features) == ()


def test_a_tag_gives_its_machine_and_vector_unit() -> None:
    board = resolve_target("raspberry-pi/4b-aarch64")
    assert board.machine == "aarch64" and board.features == ("asimd",)
    assert board.target.attrs["mcpu"] == "cortex-a72"


@pytest.mark.parametrize(
    ("name", "machine", "processor"),
    [
        ("rpi3", "aarch64", "cortex-a53"),
        ("rpi4", "aarch64", "cortex-a72"),
        ("rpi5", "aarch64", "cortex-a76"),
        ("jetson-nano", "aarch64", "cortex-a57"),
        ("jetson-orin", "aarch64", "cortex-a78ae"),
        ("generic-aarch64", "aarch64", "generic"),
        ("generic-armv7", "armv7l", "generic"),
    ],
)
def test_boards_have_names(name: str, machine: str, processor: str) -> None:
    board = resolve_target(name)
    assert (board.machine, board.target.attrs["mcpu"]) == (machine, processor)
    assert {"aarch64": "asimd", "armv7l": "neon"}[machine] in board.features
    assert ("asimddp" in board.features) == (name in ("rpi5", "jetson-orin"))
    assert name in known_targets()


def test_cores_come_from_the_target_or_the_caller() -> None:
    assert resolve_target("host").target.attrs["num-cores"] == 1
    assert resolve_target("raspberry-pi/4b-aarch64").target.attrs["num-cores"] == 4
    board = resolve_target("raspberry-pi/4b-aarch64", cores=3)
    assert board.target.attrs["num-cores"] == 3 and board.target.attrs["mcpu"] == "cortex-a72"
    assert board.features == ("asimd",)


def test_a_dict_gives_the_features_of_its_processor() -> None:
    options = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"}
    target = resolve_target(options)
    assert target.machine == "x86_64"
    assert "avx2" in target.features and "avx512f" not in target.features
    wider = resolve_target({**options, "mcpu": "skylake-avx512"})
    assert "avx512f" in wider.features


def test_a_feature_that_no_machine_has_is_missing() -> None:
    assert missing_features(("no_such_flag",)) == ("no_such_flag",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pentium", r"'pentium' is unknown; expected one of host, .*raspberry-pi/4b-aarch64"),
        ("nvidia/nvidia-a100", r"'nvidia/nvidia-a100' is unknown"),
        ({"kind": "cuda"}, r"expected a CPU \(kind 'llvm'\), got kind 'cuda'"),
        ({"kind": "nothing"}, r"TVM can't make it"),
        (
            {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "warp9"},
            r"LLVM knows no aarch64 processor 'warp9'",
        ),
        ({"kind": "llvm", "mtriple": "foo-bar"}, r"is for 'foo' machines; expected a triple.*arm"),
        ({"kind": "llvm", "mtriple": "foo-bar", "mcpu": "cortex-a72"}, r"is for 'foo' machines"),
        ({"kind": "llvm", "mtriple": "mips-linux-gnu"}, r"'mips' machines.*x86_64, aarch64"),
        ({"kind": "llvm", "mtriple": 7}, r"TVM can't make it"),
        ({"kind": "llvm", "num-cores": -2}, r"num-cores is -2; expected 1 or more"),
        ({"kind": "llvm", "num-cores": 0}, r"num-cores is 0; expected 1 or more"),
        ({"kind": "llvm", "vector-width": 100}, r"vector-width is 100; expected bits, a power of"),
        ({"kind": "llvm", "vector-width": -128}, r"vector-width is -128"),
        (7, r"target 7 is a int; expected a name such as 'host', or a dict"),
        (["host"], r"target \['host'\] is a list"),
        (None, r"target None is a NoneType"),
    ],
)
def test_an_unknown_target_is_refused(name: Any, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        resolve_target(name)


@pytest.mark.parametrize("cores", [-3, 0, "2", 1.5, True])
def test_cores_that_are_no_count_are_refused(cores: Any) -> None:
    with pytest.raises(CompileError, match=f"cores is {cores!r}; expected a whole number, 1 or"):
        resolve_target("host", cores=cores)


def test_known_targets_are_processors() -> None:
    names = known_targets()
    assert names[0] == "host" and not any(name.startswith("nvidia/nvidia-a100") for name in names)
    assert not any(name.startswith("riscv/") for name in names)


@pytest.mark.parametrize("name", [n for n in known_targets() if n.startswith(("arm/", "rasp"))])
def test_every_arm_tag_resolves(name: str) -> None:
    assert resolve_target(name).machine in ("aarch64", "armv7l")
