# SPDX-License-Identifier: Apache-2.0
"""Every kind of bad input: one clear line, the right exit status, nothing left running."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

Command = Callable[..., Any]


def refused(command: Command, arguments: Sequence[object], status: int, *words: str) -> None:
    """Assert that a command fails with one line that holds these words."""
    before = set(psutil.Process().children(recursive=True))
    done = command(*arguments)
    assert done.status == status, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("decnn"), done.err
    for word in words:
        assert word in lines[0]
    assert set(psutil.Process().children(recursive=True)) <= before


def edit_manifest(folder: Path, copy: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of the package with another manifest."""
    shutil.copytree(folder / "grouped.pkg", copy)
    data = json.loads((copy / "manifest.json").read_text())
    change(data)
    (copy / "manifest.json").write_text(json.dumps(data))
    return copy


@pytest.mark.parametrize("verb", [["inspect"], ["decouple", "-o", "x"], ["compile", "-o", "x"]])
def test_no_such_file(command: Command, tmp_path: Path, verb: list[str]) -> None:
    model = tmp_path / "nothing.onnx"
    refused(command, [*verb, model], 2, "nothing.onnx", "no such file")


def test_not_onnx(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("This is a letter, not a network.")
    refused(command, ["inspect", path], 2, "text.onnx", "ONNX")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tracker", "somewhere"], ["'somewhere'", "expected host:port"]),
        (["--tracker", "127.0.0.1:9190"], ["expected a key too"]),
        (["--trials", "0"], ["at least 1"]),
        (["--timeout", "soon"], ["--timeout"]),
    ],
)
def test_tune_with_wrong_options(
    command: Command, folder: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    verb = ["tune", folder / "dense.onnx", "--records", tmp_path / "records"]
    refused(command, [*verb, *arguments], 2, *words)


def test_records_that_are_not_there(command: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.pkg"
    options = ["-o", out, "--records", tmp_path / "nothing"]
    refused(command, ["compile", folder / "grouped.onnx", *options], 2, "holds no tuning records")
    assert not out.exists()


def test_records_that_can_not_be_written(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = ["--records", tmp_path / "file"]
    refused(command, ["tune", folder / "grouped.onnx", *options], 2, "can't be written")


def test_an_unsupported_operator(command: Command, tmp_path: Path) -> None:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph([node], "odd", infos[:1], infos[1:])
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    out = tmp_path / "odd.pkg"
    refused(command, ["compile", path, "-o", out, "--workers", 2], 2, "Frobnicate")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "input"], ["expected NAME=1,3,224,224"]),
        (["--shape", "input=1,0,8,8"], ["at least 1"]),
        (["--shape", "image=1,3,64,64"], ["image"]),
        (["--batch", "0"], ["at least 1"]),
        (["--bogus"], ["unrecognized arguments", "--help"]),
    ],
)
def test_wrong_options(
    command: Command, folder: Path, arguments: list[str], words: list[str]
) -> None:
    refused(command, ["inspect", folder / "dense.onnx", *arguments], 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--groups", "5"], ["5"]),
        (["--groups", "-1"], ["at least 1"]),
        (["--shuffle", "nowhere"], ["nowhere"]),
        (["--exclude", "nobody"], ["nobody"]),
        (["--preset", "lenet"], ["lenet", "resnet50-x1.75"]),
        (["--preset", "vgg16_bn"], ["vgg16_bn", "13 convolutions"]),
        (["--width", "0"], ["width"]),
    ],
)
def test_a_decoupling_that_cannot_be(
    command: Command, folder: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = tmp_path / "out.onnx"
    refused(command, ["decouple", folder / "dense.onnx", "-o", out, *arguments], 2, *words)
    assert not out.exists()


def test_an_output_that_cannot_be_written(command: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "out.onnx"
    refused(command, ["decouple", folder / "dense.onnx", "-o", out], 2, "missing")
    package, out = folder / "grouped.pkg", tmp_path / "missing" / "y.npz"
    refused(command, ["run", package, "--input", folder / "x.npy", "--output", out], 2, "y.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "3"], ["G=2", "at most 2", "3"]),
        (["--shares", "1,2"], ["G=2", "add up"]),
        (["--shares", "1,x"], ["whole number"]),
        (["--workers", "2", "--shares", "1,1"], ["not allowed"]),
        (["--target", "abacus"], ["abacus", "host"]),
        (["--wire", "int3"], ["int3", "float16"]),
    ],
)
def test_a_split_that_cannot_be(
    command: Command, folder: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = tmp_path / "out.pkg"
    refused(command, ["compile", folder / "grouped.onnx", "-o", out, *arguments], 2, *words)
    assert not list(tmp_path.iterdir())


def test_compile_spares_what_is_no_package(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    refused(command, ["compile", folder / "grouped.onnx", "-o", tmp_path], 2, "no package")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_more_workers_than_groups_at_run(command: Command, folder: Path) -> None:
    refused(
        command, ["run", folder / "grouped.pkg", "--workers", 3, "--json"], 2, "G=2", "at most 2"
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 32, 32), "float32"), ["(1, 3, 32, 32)", "expected (1, 3, 64, 64)"]),
        (np.zeros((1, 3, 64, 64), "float64"), ["float64", "expected float32"]),
        (np.full((1, 3, 64, 64), np.nan, "float32"), ["NaN"]),
    ],
    ids=["shape", "dtype", "NaN"],
)
def test_a_wrong_sample(
    command: Command, folder: Path, tmp_path: Path, array: Any, words: list[str]
) -> None:
    np.save(tmp_path / "x.npy", array)
    arguments = ["run", folder / "grouped.pkg", "--input", tmp_path / "x.npy"]
    refused(command, arguments, 2, *words)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("nothing.npy", None, "no such file"),
        ("x.npy", b"no array", "unreadable"),
        ("x.npz", b"no archive", "unreadable"),
        ("x.jpg", b"no image", "neither a NumPy file nor an image"),
    ],
)
def test_an_unreadable_sample(
    command: Command, folder: Path, tmp_path: Path, name: str, content: bytes | None, word: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(command, ["run", folder / "grouped.pkg", "--input", tmp_path / name], 2, name, word)


def test_a_wrong_name_in_a_sample(command: Command, folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", picture=np.zeros((1, 3, 64, 64), "float32"))
    arguments = ["run", folder / "grouped.pkg", "--input", tmp_path / "x.npz"]
    refused(command, arguments, 2, "picture", "input")


def test_no_package(command: Command, tmp_path: Path) -> None:
    refused(command, ["run", tmp_path / "nothing"], 2, "no manifest.json")
    (tmp_path / "manifest.json").write_text('{"name": "something else"}')
    refused(command, ["run", tmp_path], 2, "not a decnn-tvm package")
    (tmp_path / "manifest.json").write_text("{")
    refused(command, ["run", tmp_path], 2, "unreadable")


@pytest.mark.parametrize("name", ["weights/group1.safetensors", "lib/host/groups1.so"])
@pytest.mark.parametrize("missing", [True, False], ids=["missing", "damaged"])
def test_a_damaged_package(
    command: Command, folder: Path, tmp_path: Path, name: str, missing: bool
) -> None:
    package = edit_manifest(folder, tmp_path / "copy", lambda data: None)
    if missing:
        (package / name).unlink()
    else:
        content = bytearray((package / name).read_bytes())
        content[-1] ^= 1
        (package / name).write_bytes(content)
    word = "missing" if missing else "damaged"
    refused(command, ["run", package, "--input", folder / "x.npy"], 2, name, word)


def test_a_package_that_does_not_fit(command: Command, folder: Path, tmp_path: Path) -> None:
    x = folder / "x.npy"
    package = edit_manifest(
        folder, tmp_path / "version", lambda data: data["versions"].update({"apache-tvm": "0.1"})
    )
    refused(command, ["run", package, "--input", x], 2, "apache-tvm 0.1", "Install the same")
    package = edit_manifest(
        folder, tmp_path / "machine", lambda data: data["targets"]["host"].update(machine="vax")
    )
    refused(command, ["run", package, "--input", x], 2, "vax", "Compile the package")
    package = edit_manifest(folder, tmp_path / "format", lambda data: data.update(format=99))
    refused(command, ["run", package, "--input", x], 2, "format 99")
    package = folder / "grouped.pkg"
    refused(command, ["run", package, "--input", x, "--target", "pi"], 2, "not for 'pi'")


def test_workers_that_are_not_there(command: Command, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["run", folder / "grouped.pkg", "--input", folder / "x.npy", "--connect"]
        refused(command, [*arguments, address, address], 1, f"no worker answers at {address}")
    refused(command, [*arguments, "here", "there"], 1, "expected host:port")


def test_a_worker_that_hangs(command: Command, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and never says a word
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        arguments = ["run", folder / "grouped.pkg", "--input", folder / "x.npy"]
        refused(command, [*arguments, "--timeout", 2, "--connect", address, address], 1, "worker 0")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_a_worker_stays_on_loopback(command: Command, host: str) -> None:
    refused(command, ["worker", "--host", host], 2, host, "--insecure")


def test_the_bare_worker_stays_on_loopback() -> None:
    worker = [sys.executable, "-m", "decnn_tvm.runtime.worker", "--host", "0.0.0.0"]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "--insecure" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_worker_at_no_port(command: Command, port: str) -> None:
    refused(command, ["worker", f"--port={port}"], 2, "expected 0 to 65535")


def test_debug_shows_the_traceback(command: Command, tmp_path: Path) -> None:
    from decnn_tvm.errors import ModelError

    with pytest.raises(ModelError, match="no such file"):
        command("inspect", tmp_path / "nothing.onnx", "--debug")
