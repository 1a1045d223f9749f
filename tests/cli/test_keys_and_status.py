# SPDX-License-Identifier: Apache-2.0
"""A cluster with keys from the command line: make them, serve, run, look."""

from __future__ import annotations

import dataclasses
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decnn_tvm.cli.status import _show_live
from decnn_tvm.runtime.observation import Observation, Rates
from decnn_tvm.runtime.watching import Seen
from decnn_tvm.testing.boards import free_port

Command = Callable[..., Any]
Start = Callable[..., Any]


def test_from_keys_to_answers(command: Command, start: Start, folder: Path, tmp_path: Path) -> None:
    keys, port = tmp_path / "keys", free_port()
    done = command("keys", keys, "--workers", "pi1", "pi2")
    assert done.status == 0 and f"{keys / 'pi2'}: copy to worker pi2" in done.out
    workers = [
        start("worker", "--keys", keys / "pi1", "--metrics", port),
        start("worker", "--keys", keys / "pi2", "--host", "127.0.0.2"),
    ]
    places = [json.loads(worker.stdout.readline()) for worker in workers]
    addresses = [f"{place['host']}:{place['port']}" for place in places]
    package, own = folder / "grouped.pkg", keys / "coordinator"
    run = ("run", package, "--random", 2, "--json", "--connect", *addresses)
    done = command(*run, "--keys", own)
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["samples"]) == 2
    done = command("status", "--connect", *addresses, "--keys", own, "--once", "--interval", 0.1)
    assert done.status == 0 and done.out.count("idle") == 2, done
    done = command(
        *("status", "--connect", *addresses, "127.0.0.1:1", "--keys", own),
        *("--once", "--json", "--interval", 0.1),
    )
    assert done.status == 1 and "no worker answers at 127.0.0.1:1" in done.err
    states = [
        one["observation"] and one["observation"]["state"]
        for one in json.loads(done.out)["workers"]
    ]
    assert states == ["idle", "idle", None]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert 'decnn_state{state="idle"} 1.0' in answer.read().decode()
    done = command(*run)
    assert done.status == 1 and "worker 0 at 127.0.0.1" in done.err


def test_the_live_table_follows(capsys: pytest.CaptureFixture[str]) -> None:
    seen = [Seen(address="127.0.0.1:7000", observation=None, rates=Rates())]
    running = Observation(at=1.0, state="running", model="net", groups=(0, 1), open_samples=3)
    looks = iter([seen, [dataclasses.replace(seen[0], observation=running)]])

    def look() -> list[Seen]:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        _show_live(look, 0.01)
    assert "running   net       0,1" in capsys.readouterr().out


def test_metrics_stay_on_loopback(start: Start) -> None:
    worker = start("worker", "--metrics", "0.0.0.0:1")
    out, err = worker.communicate(timeout=60)
    assert (worker.returncode, out) == (2, "") and "host '0.0.0.0': other machines" in err


def test_bad_keys(command: Command, folder: Path, tmp_path: Path) -> None:
    assert command("keys", tmp_path / "keys").status == 0
    for arguments, status, word in (
        (("keys", tmp_path / "keys"), 2, "nothing is overwritten"),
        (("worker", "--keys", tmp_path / "keys"), 2, "Pass"),
        (("worker", "--host", "0.0.0.0", "--insecure"), 2, "one interface"),
        (("run", folder / "grouped.pkg", "--keys", tmp_path), 2, "expected the whole folder"),
        (("run", folder / "grouped.pkg", "--connect", "192.0.2.1:7"), 2, "other machines"),
        (("status", "--connect", "192.0.2.1:7000"), 2, "--insecure"),
        (("status", "--connect", "127.0.0.1:7000", "--keys", tmp_path), 2, "no identity.pem"),
    ):
        done = command(*arguments)
        assert (done.status, word in done.err, len(done.err.splitlines())) == (status, True, 1), (
            done
        )
