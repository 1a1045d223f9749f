# SPDX-License-Identifier: Apache-2.0
"""decnn plan, profile, report, and compile --plan auto."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.package import Package
from tests.profiles import made_up_profile

Command = Callable[..., Any]


def cluster_file(path: Path, *, bandwidth: str, latency: str, workers: int = 2) -> Path:
    lines = [
        f'[[worker]]\nname = "board-{i}"\naddress = "192.0.2.{i + 1}:9100"\n'
        for i in range(workers)
    ]
    lines.append(f'[[link]]\nbandwidth = "{bandwidth}"\nlatency = "{latency}"\n')
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    return cluster_file(tmp_path / "fast.toml", bandwidth="10 Gb/s", latency="0.01 ms")


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return cluster_file(tmp_path / "slow.toml", bandwidth="1 Mb/s", latency="20 ms")


def test_a_plan_for_a_cluster_that_is_not_there(command: Command, folder: Path, fast: Path) -> None:
    arguments = ("--cluster", fast, "--exact", "--wire", "float32")
    done = command("plan", folder / "dense.onnx", *arguments, "--json")
    assert done.status == 0, done.err
    data = json.loads(done.out)
    assert data["goal"] == "throughput" and not data["refused"]
    first, *others = data["alternatives"]
    assert first["strategy"] == "replicas" and first["workers"] == ["board-0", "board-1"]
    assert all(other["reason"] for other in others)
    done = command("plan", folder / "dense.onnx", *arguments)
    assert "best: replicas on board-0, board-1." in done.out


def test_a_hopeless_cluster_is_refused(
    command: Command, folder: Path, slow: Path, tmp_path: Path
) -> None:
    wanted = ("--cluster", slow, "--for", "latency")
    done = command("plan", folder / "dense.onnx", *wanted, "--exact")
    assert done.status == 2 and "one device is as fast or faster: board-0 alone takes" in done.err
    assert "one device" in done.out  # the figures are there all the same
    out = tmp_path / "out.pkg"
    done = command("compile", folder / "dense.onnx", "-o", out, *wanted, "--plan", "auto")
    assert done.status == 2 and "--strategy single" in done.err
    assert not out.exists()


def test_compile_takes_the_plan(command: Command, folder: Path, fast: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pkg"
    done = command("compile", folder / "dense.onnx", "-o", out, "--cluster", fast, "--plan", "auto")
    assert done.status == 0, done.err
    assert re.search(r"plan: replicas; run it on board-0, board-1 with --in-flight \d", done.out)
    package = Package(out)
    assert package.plan.strategy == "replicas" and package.manifest.workers == 2


def test_profile_of_local_workers(command: Command, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    arguments = ("--workers", 2, "--seconds", 0.2, "-o", path)
    done = command("profile", folder / "grouped.pkg", *arguments)
    assert done.status == 0, done.err
    assert "worker-1" in done.out and "bandwidth" in done.out
    data = json.loads(path.read_text())
    assert data["schema"] == 1 and len(data["links"]) == 3
    assert all(stage["estimated_cycles"] > 0 for stage in data["workers"][0]["stages"])
    # It is of other workers than this file's.
    other = cluster_file(tmp_path / "other.toml", bandwidth="1 Gb/s", latency="0.1 ms")
    done = command("plan", folder / "dense.onnx", "--cluster", other, "--profile", path)
    assert done.status == 2 and "the profile is of the workers" in done.err


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed in order."""

    VOID = ("meta", "rect", "line", "path", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.figures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]
        self.figures += tag == "figure"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("traced", [False, True])
def test_a_report_is_one_page(
    command: Command, folder: Path, fast: Path, tmp_path: Path, traced: bool
) -> None:
    out, trace = tmp_path / "report.html", tmp_path / "trace.json"
    more: tuple[object, ...] = ()
    if traced:
        command("run", folder / "grouped.pkg", "--workers", 2, "--trace", trace, "--json")
        more = ("--trace", trace)
    done = command(
        *("report", folder / "grouped.onnx", "--cluster", fast, "--counts", "1,2", "-o", out, *more)
    )
    assert done.status == 0, done.err
    text = out.read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.references == [] and page.figures == 5
    assert "http" not in text and "url(" not in text and "@import" not in text
    for words in ("number of devices", "time, milliseconds", "memory, MB", "limit", "board-1"):
        assert words in text
    # It says what its words mean, and how far a limit that leaves the picture goes.
    assert "every device holds the whole network" in text and "the sample goes to the" in text
    assert re.search(r"limit of [a-z ]+ \(dashed\): [\d.e+]+ times on 2", text)
    assert ("A run, measured" in text) == traced


def test_a_report_of_what_was_measured(
    command: Command, folder: Path, fast: Path, tmp_path: Path
) -> None:
    out, measured = tmp_path / "report.html", tmp_path / "profile.json"
    made_up_profile(["board-0", "board-1"]).write(measured)
    wanted = ("--cluster", fast, "--profile", measured, "--exact", "--counts", "1,2")
    done = command("report", folder / "dense.onnx", *wanted, "-o", out)
    assert done.status == 0, done.err
    text, page = out.read_text(), Page()
    page.feed(text)
    # The package that was profiled is another one, so what is shown is estimated besides.
    assert page.open == [] and page.references == [] and page.figures == 6
    assert "Devices and links were measured." in text
    assert "Share of the time of board-1, the busiest device, in the package of made-up" in text
    assert ">stage0: fused_conv2d_relu</text>" in text and ">56.2 %</text>" in text


def test_a_report_of_a_refused_plan(
    command: Command, folder: Path, slow: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    wanted = ("--cluster", slow, "--exact", "--for", "latency", "--counts", "1,2")
    done = command("report", folder / "dense.onnx", *wanted, "-o", out)
    assert done.status == 0, done.err
    text, page = out.read_text(), Page()
    page.feed(text)
    assert page.open == [] and page.figures == 5
    assert "Several devices are not worth it" in text and "One device is as fast" in text
    # What is shown is the one device, with all layers in a box.
    assert "stage0 on board-0" in text and "stage0 on board-1" not in text
    assert "layers: conv1, layer1.0.conv1," in text and ">0: conv1 … fc</text>" in text


def test_bad_input(command: Command, folder: Path, fast: Path, tmp_path: Path) -> None:
    model = folder / "dense.onnx"
    nothing = tmp_path / "nothing.json"
    done = command("plan", model)
    assert done.status == 2 and "which cluster? Pass --cluster" in done.err
    done = command("plan", model, "--cluster", fast, "--profile", nothing)
    assert done.status == 2 and "can't be read" in done.err
    done = command("plan", model, "--cluster", fast, "--memory", "lots")
    assert done.status == 2 and "expected a size" in done.err
    done = command("report", model, "--cluster", fast, "--trace", nothing, "-o", tmp_path / "x")
    assert done.status == 2 and "decnn run --trace" in done.err
    compiling = ("compile", model, "-o", tmp_path / "x", "--plan", "auto")
    done = command(*compiling, "--cluster", fast, "--workers", 2)
    assert done.status == 2 and "leave them out" in done.err
    done = command(*compiling)
    assert done.status == 2 and "which cluster?" in done.err
