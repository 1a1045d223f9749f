# SPDX-License-Identifier: Apache-2.0
"""Keys: how they are made, what is refused, and what rests on them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from decnn_tvm.errors import InputError
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.credentials import Credentials, cluster_folders


def test_modes_and_files(tmp_path: Path) -> None:
    made = make_keys(tmp_path / "keys", ["pi1", "pi2"])
    assert made == [tmp_path / "keys/pi1", tmp_path / "keys/pi2"]
    for path in [tmp_path / "keys", *(tmp_path / "keys").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    own, others = cluster_folders(tmp_path / "keys")
    assert own.name == "coordinator" and [path.name for path in others] == ["pi1", "pi2"]
    assert [p.name for p in Credentials.load(own).trusted] == ["pi1.pem", "pi2.pem"]
    assert [p.name for p in Credentials.load(others[0]).trusted] == ["coordinator.pem"]


def test_a_worker_folder_holds_no_other_secret(tmp_path: Path) -> None:
    make_keys(tmp_path, ["pi1", "pi2"])
    secrets = {p for p in tmp_path.rglob("*.pem") if "PRIVATE KEY" in p.read_text()}
    assert secrets == {tmp_path / n / "identity.pem" for n in ("coordinator", "pi1", "pi2")}


def test_workers_are_added_and_nothing_is_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    with pytest.raises(InputError, match=r"worker: is there already, and nothing is overwritten"):
        make_keys(tmp_path)
    make_keys(tmp_path, ["pi3"])
    assert {path: path.read_bytes() for path in before} == before
    assert len(Credentials.load(tmp_path / "coordinator").trusted) == 2


@pytest.mark.parametrize("name", ["", "../pi", "a/b", "coordinator", "trusted", "-rf", "x" * 64])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected letters"):
        make_keys(tmp_path, [name])
    assert not list(tmp_path.iterdir())


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no identity"):
        Credentials.load(tmp_path)
    make_keys(tmp_path)
    worker = tmp_path / "worker"
    with pytest.raises(InputError, match="holds the folders of a whole cluster"):
        Credentials.load(tmp_path)
    with pytest.raises(InputError, match="expected the whole folder"):
        cluster_folders(worker)
    (worker / "identity.pem").chmod(0o640)
    with pytest.raises(InputError, match=r"mode 640, so others can read .*chmod 600"):
        Credentials.load(worker)
    (worker / "identity.pem").chmod(0o600)
    (worker / "trusted/coordinator.pem").write_text("not a certificate")
    with pytest.raises(InputError, match="damaged"):
        Credentials.load(worker)
    (worker / "trusted/coordinator.pem").unlink()
    with pytest.raises(InputError, match="nobody could connect"):
        Credentials.load(worker)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        make_keys(tmp_path / "file" / "keys")
