# SPDX-License-Identifier: Apache-2.0
"""Results that `decnn run` has are shown and saved, whatever happens after the last one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest

from decnn_tvm.runtime import Session

Command = Callable[..., Any]


def test_a_worker_that_dies_after_the_last_result(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats, before = Session.stats, {p.pid for p in psutil.Process().children()}

    def too_late(session: Session) -> Any:
        for child in psutil.Process().children():
            if child.pid not in before:
                os.kill(child.pid, signal.SIGKILL)
        return stats(session)

    monkeypatch.setattr(Session, "stats", too_late)
    out, trace = tmp_path / "y.npz", tmp_path / "trace.json"
    options = ["--random", 2, "--output", out, "--trace", trace, "--json"]
    done = command("run", folder / "grouped.pkg", *options)
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["samples"]) == 2
    with np.load(out) as outputs:
        assert len(outputs["output"]) == 2
    assert not [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]


def test_results_are_saved_before_statistics_are_asked_for(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(session: Session) -> NoReturn:
        raise RuntimeError("no statistics today")

    monkeypatch.setattr(Session, "stats", broken)
    out = tmp_path / "y.npz"
    done = command("run", folder / "grouped.pkg", "--random", 2, "--output", out)
    assert done.status == 1 and "no statistics today" in done.err
    with np.load(out) as outputs:
        assert len(outputs["output"]) == 2


@pytest.mark.parametrize("option", ["--output", "--trace"])
def test_files_that_can_not_be_written_are_refused_at_once(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def started(*_: object) -> NoReturn:
        raise AssertionError("workers were started")

    monkeypatch.setattr("decnn_tvm.cli.run._cluster", started)
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "no" / "file", "there is no folder"),
        (tmp_path / "file" / "file", "there is no folder"),
        (tmp_path, "it is a folder"),
    ):
        done = command("run", folder / "grouped.pkg", "--random", 1, option, path)
        assert done.status == 2, done
        assert f"{option} {path}: can't be written ({why}" in done.err
