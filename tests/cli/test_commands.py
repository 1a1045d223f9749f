# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from PIL import Image

from decnn_tvm.cli.run import default_workers
from decnn_tvm.package import Package
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs

TIMEOUT = 60
Command = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(
    "name", ["inspect", "decouple", "finetune", "tune", "compile", "run", "worker", "demo"]
)
def test_help_shows_an_example(command: Command, name: str) -> None:
    done = command(name, "--help")
    assert done.status == 0
    assert f"example:\n  decnn {name}" in done.out


def test_tune_then_compile(command: Command, tmp_path: Path) -> None:
    records, dense, model = (tmp_path / name for name in ("records", "dense.onnx", "model.onnx"))
    onnx.save(zoo.small("resnet18", image_size=32, blocks=(1, 1)), dense)
    assert command("decouple", dense, "-o", model, "--groups", 2).status == 0
    done = command("tune", model, "--records", records, "--trials", 1)
    assert done.status == 0, done.err
    assert "layers tuned for" in done.out and "1 of" in done.out
    count = int(done.out.split(" layers tuned for")[0].split()[-1])
    lines = [line for line in done.err.splitlines() if " of " in line]
    assert len(lines) == count, "without a terminal, a line for each layer"
    assert f": layer 1 of {count}, trial 1 of 1, best " in lines[0]
    assert f"decnn compile --records {records}" in done.out
    again = command("tune", model, "--records", records, "--trials", 1, "--json")
    report = json.loads(again.out)
    assert {task["new"] for task in report["tasks"]} == {0}
    out = tmp_path / "tuned.pkg"
    done = command("compile", model, "-o", out, "--records", records)
    assert done.status == 0, done.err
    assert Package(out).plan.groups == 2


def test_inspect_says_what_can_be_decoupled(command: Command, folder: Path) -> None:
    done = command("inspect", folder / "dense.onnx")
    assert done.status == 0
    assert "stem: 3 input channels" in done.out
    assert "11 of 12 convolutions can be decoupled" in done.out


def test_inspect_as_json(command: Command, folder: Path) -> None:
    data = json.loads(command("inspect", folder / "grouped.onnx", "--json").out)
    assert data["groups"] == 2
    assert {layer["groups"] for layer in data["layers"]} == {1, 2}
    # The initializers that are numbers of the network, counted by ONNX alone.
    model = onnx.load(folder / "grouped.onnx")
    floats = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    assert data["totals"]["parameters"] == sum(int(np.prod(w.dims)) for w in floats)


def test_decouple_options_reach_the_network(command: Command, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    arguments = ["--shuffle", "none", "--exclude", "layer1.0.conv1", "--weights", "fresh"]
    assert command("decouple", folder / "dense.onnx", "-o", out, *arguments).status == 0
    model = onnx.load(out)
    groups = {
        node.input[1].removesuffix(".weight"): attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and attribute.name == "group"
    }
    assert "Transpose" not in {node.op_type for node in model.graph.node}
    assert groups["layer1.0.conv2"] == 4
    assert groups.get("layer1.0.conv1", 1) == groups.get("conv1", 1) == 1


def test_run_gives_what_onnx_runtime_gives(command: Command, folder: Path, tmp_path: Path) -> None:
    samples = random_inputs((1, 3, 64, 64), 4, seed=3)
    files = [tmp_path / f"{index}.npy" for index in range(4)]
    for file, sample in zip(files, samples, strict=True):
        np.save(file, sample)
    out = tmp_path / "y.npz"
    done = command("run", folder / "grouped.pkg", "--input", *files, "--output", out, "--json")
    assert done.status == 0, done.err
    with np.load(out) as outputs:
        ours = list(outputs["output"])
    assert_logits_match(ours, reference_outputs(folder / "grouped.onnx", samples))
    data = json.loads(done.out)
    assert [sample["source"] for sample in data["samples"]] == [str(file) for file in files]
    for sample, logits in zip(data["samples"], ours, strict=True):
        assert sample["outputs"]["output"]["top"][0][0] == logits.argmax()
    assert [device["groups"] for device in data["devices"]] == [[0], [1]]


def test_run_normalizes_images(command: Command, folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    np.save(
        tmp_path / "x.npy",
        ((pixels / 255.0 - mean) / std).transpose(2, 0, 1)[np.newaxis].astype("float32"),
    )
    inputs = [tmp_path / "image.png", tmp_path / "x.npy"]
    options = ["--mean", "0.1,0.2,0.3", "--std", "0.5,0.6,0.7", "--output", tmp_path / "y.npz"]
    done = command("run", folder / "grouped.pkg", "--input", *inputs, *options)
    assert done.status == 0, done.err
    with np.load(tmp_path / "y.npz") as outputs:
        image, array = outputs["output"]
    assert np.abs(image - array).max() <= 1e-5 * np.abs(array).max()


def test_pixels_in_and_integers_between(command: Command, folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    (tmp_path / "photos").mkdir()
    files = [tmp_path / "photos" / f"{index}.png" for index in range(4)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype="uint8")).save(file)
    outputs = {}
    for name, options in {
        "float32": [],
        "int8": ["--wire", "int8", "--calibrate", tmp_path / "photos", "--uint8-input"],
    }.items():
        package, result = tmp_path / f"{name}.pkg", tmp_path / f"{name}.npz"
        done = command("compile", folder / "grouped.onnx", "-o", package, *options)
        assert done.status == 0, done.err
        done = command("run", package, "--input", *files, "--output", result)
        assert done.status == 0, done.err
        with np.load(result) as arrays:
            outputs[name] = arrays["output"]
    largest = np.abs(outputs["float32"]).max()
    error = np.abs(outputs["int8"] - outputs["float32"]).max() / largest
    assert 1e-5 < error < 0.05
    shown = command("inspect", tmp_path / "int8.pkg")
    assert shown.status == 0 and "uint8 1x3x64x64" in shown.out
    data = json.loads(command("inspect", tmp_path / "int8.pkg", "--json").out)
    moved = [(m["kind"], m["wire"], m["bytes"]) for m in data["movements"]]
    # The shuffled maps of a ResNet-18 of half the width: 32, 64 and 128 channels, half of which
    # leave the device; two copies of the image come, two partial sums go.
    sizes = [c * side**2 // 2 for c, side in ((32, 16), (64, 8), (128, 4))]
    assert moved == [
        ("input", "uint8", 2 * 3 * 64**2),
        *(("all_to_all", "uint8", size) for size in sizes),
        ("output", "float32", 2 * 4 * 10),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "0.5"], "they need --uint8-input or --calibrate"),
        (["--calibration-method", "mse"], "needs --calibrate"),
        (["--wire", "int8", "--calibrate", "nowhere"], "expected a folder of images"),
        (["--uint8-input", "--mean", "0.5,0.5"], "as many numbers"),
        (["--uint8-input", "--std", "0"], "std above 0"),
    ],
)
def test_image_options_that_do_not_fit(
    command: Command, folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = command("compile", folder / "grouped.onnx", "-o", tmp_path / "p", *options)
    assert done.status == 2 and message in done.err
    assert "Traceback" not in done.err


def test_run_writes_a_trace_of_both_workers(command: Command, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert command("run", folder / "grouped.pkg", "--random", 3, "--trace", path).status == 0
    events = json.loads(path.read_text())["traceEvents"]
    stages = [e for e in events if e.get("cat") == "compute"]
    assert {(e["pid"], e["args"]["sample"]) for e in stages} == {
        (rank, sample) for rank in (0, 1) for sample in (0, 1, 2)
    }
    assert {"send", "receive"} <= {e["cat"] for e in events if "cat" in e}


def test_run_says_that_its_input_is_noise(command: Command, folder: Path) -> None:
    done = command("run", folder / "grouped.pkg", "--workers", 1, "--random", 2, "--seed", 9)
    assert done.status == 2  # G = 2 was compiled for one group on a device
    assert "no library for 2 channel groups" in done.err
    done = command("run", folder / "grouped.pkg", "--random", 2, "--seed", 9)
    assert done.status == 0
    assert "2 samples of random noise, seed 9" in done.out


def test_shares_choose_libraries_and_default_workers(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "uneven.pkg"
    done = command("compile", folder / "dense.onnx", "-o", out, "--shares", "2,1", "--json")
    assert done.status == 0
    assert json.loads(done.out)["targets"] == {"host": [1, 2]}
    assert default_workers(Package(out)) == 2
    done = command("run", out, "--shares", "1,2", "--random", 2, "--json")
    assert [device["groups"] for device in json.loads(done.out)["devices"]] == [[0], [1, 2]]


def test_run_connects_to_workers(command: Command, start: Start, folder: Path) -> None:
    workers = [start("worker") for _ in range(2)]
    addresses = []
    for worker in workers:
        assert worker.stdout is not None
        address = json.loads(worker.stdout.readline())
        addresses.append(f"{address['host']}:{address['port']}")
    x = folder / "x.npy"
    done = command("run", folder / "grouped.pkg", "--connect", *addresses, "--input", x)
    assert done.status == 0, done.err
    for worker in workers:
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=TIMEOUT)
    assert [worker.returncode for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"]
)
def test_an_interrupted_run_leaves_nothing(
    start: Start, folder: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    session = start("run", folder / "grouped.pkg", "--random", 100_000)
    deadline = time.monotonic() + TIMEOUT
    while len(workers := psutil.Process(session.pid).children()) < 2:
        assert session.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    session.send_signal(number)
    _, err = session.communicate(timeout=TIMEOUT)
    assert session.returncode == status
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=TIMEOUT)[1]
    assert not list((tmp_path / "temporary").iterdir())
