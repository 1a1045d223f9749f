# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from decnn_tvm.frontend import save_onnx
from decnn_tvm.testing.equality import reference_outputs
from tests.training.conftest import labelled, small_network

TIMEOUT = 60
Command = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]
OPTIONS = ["--mean", "0.5", "--std", "0.25", "--device", "cpu", "--no-augment", "--images", 64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute on one thread: several that share a core wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dense model and images for it."""
    folder = tmp_path_factory.mktemp("finetune")
    train, test = labelled(512, 1), labelled(256, 2)
    np.savez(
        folder / "data.npz",
        x_train=train.pixels,
        y_train=train.labels,
        x_test=test.pixels,
        y_test=test.labels,
    )
    save_onnx(small_network(), folder / "dense.onnx")
    return folder


def test_dense_then_calibrated_and_distilled(
    command: Command, images: Path, tmp_path: Path
) -> None:
    options = [*OPTIONS, "--data", images / "data.npz", "--learning-rate", 0.1, "--json"]
    dense = tmp_path / "dense.onnx"
    done = command("finetune", images / "dense.onnx", "-o", dense, "--epochs", 2, *options)
    assert done.status == 0, done.err
    first = json.loads(done.out)
    assert first["accuracy"] > 0.8 > first["accuracy_before"]
    grouped = tmp_path / "grouped.onnx"
    arguments = ["--start", "calibrated", "--shuffle", "none", "--distill", "--wire", "int8"]
    done = command("finetune", dense, "-o", grouped, "--epochs", 1, *arguments, *options)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["groups"] == 4 and report["start"] == "calibrated"
    assert report["teacher_accuracy"] == pytest.approx(first["accuracy"])
    assert set(report["wire_accuracy"]) == {"float32", "float16", "int8"}
    run = tmp_path / "grouped.onnx.run"
    assert json.loads((run / "report.json").read_text()) == report
    assert (run / "learning_curve.png").stat().st_size > 1000
    # What is written is what was measured.
    test = labelled(256, 2)
    x = ((test.pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype("float32")
    answers = reference_outputs(onnx.load(grouped), [image[None] for image in x])
    right = np.mean([a.argmax() == label for a, label in zip(answers, test.labels, strict=True)])
    assert right == pytest.approx(report["wire_accuracy"]["float32"], abs=0.005)


def test_ctrl_c_keeps_the_last_epoch(
    start: Start, command: Command, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "trained.onnx"
    options = [*OPTIONS, "--data", images / "data.npz", "-o", out, "--patience", 500]
    arguments = ["finetune", images / "dense.onnx", *options, "--epochs", 100_000]
    process = start(*arguments)
    checkpoint = tmp_path / "trained.onnx.run" / "checkpoint.pt"
    deadline = time.monotonic() + TIMEOUT
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "Traceback" not in err
    assert [p.name for p in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
    assert not out.exists()
    saved = torch.load(checkpoint, weights_only=True)["state"]["history"]
    done = command(*arguments[:-1], 7)  # another number of epochs is another training
    assert done.status == 2 and "another training" in done.err
    done = command(*arguments, "--finish", "--json")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["history"] == saved and out.exists()


def test_folders_of_images_and_the_same_command_again(
    command: Command, images: Path, tmp_path: Path
) -> None:
    for part, found in (("train", labelled(128, 1)), ("val", labelled(64, 2))):
        for index, (pixels, label) in enumerate(zip(found.pixels, found.labels, strict=True)):
            path = tmp_path / "data" / part / "abcd"[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    out = tmp_path / "trained.onnx"
    arguments = ["finetune", images / "dense.onnx", "-o", out, "--data", tmp_path / "data"]
    arguments += [*OPTIONS, "--start", "fresh", "--shuffle", "none", "--epochs", 9, "--json"]
    arguments += ["--patience", 1, "--learning-rate", 0.0001, "--teacher", images / "dense.onnx"]
    done = command(*arguments)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    history = report["history"]
    assert len(history) < 9 and report["teacher_accuracy"] is not None
    lines = [line for line in done.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(history) and lines[0].startswith("epoch 1 of 9: loss ")
    first = out.read_bytes()
    done = command(*arguments)
    assert json.loads(done.out)["history"] == history and out.read_bytes() == first


def test_without_pytorch_it_says_how_to_get_it(
    command: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = ["--data", images / "data.npz", "-o", tmp_path / "x.onnx"]
    done = command("finetune", images / "dense.onnx", *arguments)
    assert done.status == 2 and "pip install 'decnn-tvm[train]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], ["nowhere", "expected train/CLASS"]),
        (["--epochs", "0"], ["at least 1"]),
        (["--learning-rate", "0"], ["learning rate 0.0"]),
        (["--std", "0"], ["those of std above 0"]),
        (["--seed", "-1"], ["--seed", "4294967295"]),
        (["--wire", "int8"], ["wire int8", "decouple it first"]),
        (["--width", "1.5"], ["--start given", "another --start"]),
        (["--dropout", "1.5"], ["dropout 1.5"]),
        (["--finish"], ["no epoch was done"]),
        (["--distill"], ["--teacher"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
        (["--start", "calibrated", "--groups", "3"], ["16", "3 groups"]),
    ],
)
def test_what_can_not_be_done_is_one_line(
    command: Command, images: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    verb = ["finetune", images / "dense.onnx", "-o", tmp_path / "x.onnx"]
    options = [*OPTIONS, "--data", images / "data.npz", "--restore-batch-norms"]
    done = command(*verb, *options, *arguments)
    assert done.status == 2, done
    (line,) = (line for line in done.err.splitlines() if line.strip())
    assert line.startswith("decnn") and all(word in line for word in words), line
