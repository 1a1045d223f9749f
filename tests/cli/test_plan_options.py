# SPDX-License-Identifier: Apache-2.0
"""Options of plan, report and compile --plan auto: what is planned is what is compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.package import Package
from decnn_tvm.planning.memory import IDLE_BYTES
from decnn_tvm.profiling.profile import COORDINATOR
from tests.cli.test_planned_packages import CLOCK, write_cluster
from tests.profiles import made_profile

Command = Callable[..., Any]
NAMES = ("board-0", "board-1")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    write_cluster(path, {name: f"192.0.2.{i + 1}:9100" for i, name in enumerate(NAMES)})
    return path


def one_device(command: Command, model: Path, *options: object) -> dict[str, Any]:
    """Return what `plan` says of one device."""
    done = command("plan", model, "--exact", "--wire", "float32", "--json", *options)
    assert done.out, done.err
    entries = json.loads(done.out)["alternatives"]
    found: dict[str, Any] = next(entry for entry in entries if entry["name"] == "one device")
    return found


def test_a_plan_from_a_profile(
    command: Command, folder: Path, cluster: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"
    made_profile({"board-0": CLOCK, "board-1": 2 * CLOCK}).write(profile)
    arguments = ("--cluster", cluster, "--profile", profile, "--exact", "--wire", "float32")
    done = command("plan", folder / "dense.onnx", *arguments, "--json")
    assert done.status == 0, done.err
    data = json.loads(done.out)
    assert data["measured"] and data["estimated"] == []
    entries = {entry["name"]: entry for entry in data["alternatives"]}
    assert entries["one device"]["workers"] == ["board-1"]
    assert entries["replicas"]["shares"] == [1, 2]
    slower = tmp_path / "slower.json"
    made_profile(dict.fromkeys(NAMES, CLOCK)).write(slower)
    found = one_device(command, folder / "dense.onnx", "--cluster", cluster, "--profile", slower)
    times = found["latency_seconds"] / entries["one device"]["latency_seconds"]
    assert times == pytest.approx(2, rel=0.05)
    title = command("plan", folder / "dense.onnx", *arguments).out.splitlines()[0]
    assert title.strip() == "by throughput, from a profile"


def test_what_a_profile_lacks_is_said(
    command: Command, folder: Path, cluster: Path, tmp_path: Path
) -> None:
    profile, page = tmp_path / "profile.json", tmp_path / "report.html"
    made_profile(dict.fromkeys(NAMES, CLOCK), without=((COORDINATOR, "board-1"),)).write(profile)
    arguments = (folder / "dense.onnx", "--cluster", cluster, "--profile", profile, "--exact")
    done = command("plan", *arguments, "--wire", "float32")
    assert done.out.splitlines()[0].strip().endswith("from a profile, but for 1 of 3 links")
    done = command("report", *arguments, "--counts", "1,2", "-o", page)
    assert done.status == 0, done.err
    assert "were measured, but for 1 of 3 links, which are estimates" in page.read_text()


def test_a_page_where_nothing_fits(
    command: Command, folder: Path, cluster: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    arguments = ("--cluster", cluster, "--memory", "61M", "--exact", "--counts", "1,2")
    done = command("report", folder / "dense.onnx", *arguments, "-o", page)
    assert done.status == 0, done.err
    text = page.read_text()
    assert "not worth it" not in text
    assert "It can't be run on these.</strong> Nothing fits the devices&#x27; memory" in text


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--cores", 4), "latency_seconds"),
        (("--no-winograd",), "memory_bytes"),
        (("--uint8-input",), "latency_seconds"),
    ],
)
def test_a_plan_is_for_what_will_be_compiled(
    command: Command, folder: Path, cluster: Path, options: tuple[object, ...], key: str
) -> None:
    if "--uint8-input" in options:  # which takes a quarter of the link
        cluster.write_text(cluster.read_text().replace("10 Gb/s", "100 kb/s"))
    arguments = (folder / "dense.onnx", "--cluster", cluster)
    usual = one_device(command, *arguments)
    asked = one_device(command, *arguments, *options)
    assert asked[key] < usual[key]


@pytest.mark.parametrize(("option", "whole"), [("--no-winograd", True), ("--winograd", False)])
def test_compile_plans_with_its_own_options(
    command: Command, folder: Path, cluster: Path, tmp_path: Path, option: str, whole: bool
) -> None:
    """Without Winograd's method each board holds the whole network, with it only a part."""
    out, profile = tmp_path / "out.pkg", tmp_path / "profile.json"
    made_profile(dict.fromkeys(NAMES, CLOCK / 4)).write(profile)
    known = ("--cluster", cluster, "--profile", profile)
    needs = [
        one_device(command, folder / "dense.onnx", *known, each)["memory_bytes"][0]
        for each in ("--no-winograd", "--winograd")
    ]
    assert needs[0] < needs[1]
    memory = f"{IDLE_BYTES + sum(needs) // 2} B"
    arguments = (*known, "--memory", memory, option)
    done = command("compile", folder / "dense.onnx", "-o", out, "--plan", "auto", *arguments)
    assert done.status == 0, done.err
    assert (Package(out).plan.strategy == "replicas") == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--plan", "auto", "--target", "rpi4"), "Set `target` of its workers"),
        (("--plan", "auto", "--row-tiles", 2), "does not foresee"),
        (("--plan", "auto", "--strategy", "rows"), "leave them out"),
        (("--for", "throughput"), "--for: for a plan alone. Add --plan auto"),
        (("--memory", "1G", "--for", "latency"), "--for, --memory: for a plan alone"),
        (("--profile", "profile.json"), "--profile: for a plan alone"),
    ],
)
def test_what_does_not_go_together(
    command: Command,
    folder: Path,
    cluster: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    words: str,
) -> None:
    out = tmp_path / "out.pkg"
    done = command("compile", folder / "dense.onnx", "-o", out, "--cluster", cluster, *options)
    assert done.status == 2 and words in done.err, done
    assert not out.exists()
