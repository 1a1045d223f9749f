# SPDX-License-Identifier: Apache-2.0
"""Makes the credentials of a cluster: one folder for the coordinator, one for each worker.

`decnn_tvm.runtime.credentials` says what the files are. Workers need the standard library's `ssl`
alone; only here, where keys are made, the package ``cryptography`` writes the certificates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.credentials import COORDINATOR, IDENTITY, TRUSTED

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

WORKER = "worker"
"""The identity that all workers share where no names are given."""
# RFC 5280 has this date for certificates that do not expire; boards without a clock start in 1970.
_BEFORE, _AFTER = datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def make_keys(folder: Path | str, workers: Sequence[str] = (WORKER,)) -> list[Path]:
    """Make credentials, or add workers to those that `folder` holds.

    Parameters
    ----------
    folder : path
        Gets ``coordinator/`` and a folder for each worker, of mode 0700; secrets have mode 0600.
    workers : sequence of str
        Names of the workers; one name serves any number of workers that share an identity.

    Returns
    -------
    list of Path
        The folders of the new workers.

    Raises
    ------
    InputError
        A name is not fit for a file, or has keys already: nothing is overwritten.
    """
    folder = Path(folder)
    _check_names(folder, workers)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        coordinator = folder / COORDINATOR
        if not (coordinator / IDENTITY).exists():
            _make_identity(coordinator, COORDINATOR)
        certificate = _certificate_of(coordinator)
        for name in workers:
            _make_identity(folder / name, name)
            _write(folder / name / TRUSTED / f"{COORDINATOR}.pem", certificate)
            _write(coordinator / TRUSTED / f"{name}.pem", _certificate_of(folder / name))
    except OSError as error:
        raise InputError(f"keys {folder}: can't be written ({error}).") from error
    return [folder / name for name in workers]


def _check_names(folder: Path, workers: Sequence[str]) -> None:
    for name in workers:
        if not _NAME.fullmatch(name) or name in (COORDINATOR, TRUSTED):
            raise InputError(
                f"worker name {name!r}: expected letters, digits, '-', '_' and '.', and not "
                f"{COORDINATOR!r}."
            )
        trusted = folder / COORDINATOR / TRUSTED / f"{name}.pem"
        for path in (folder / name, trusted):
            if os.path.lexists(path):
                raise InputError(
                    f"keys {path}: is there already, and nothing is overwritten. Take another "
                    f"name, or remove {folder / name} and {trusted} first."
                )
    if len(set(workers)) < len(workers) or not workers:
        raise InputError(f"worker names {list(workers)}: expected at least one, each once.")


def _make_identity(folder: Path, name: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder.mkdir(mode=0o700)
    (folder / TRUSTED).mkdir(mode=0o700)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(folder / IDENTITY, secret + _self_signed(key, name))


def _self_signed(key: Ed25519PrivateKey, name: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEFORE)
        .not_valid_after(_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate_of(folder: Path) -> bytes:
    """Return the public part of an identity."""
    text = (folder / IDENTITY).read_bytes()
    return text[text.index(b"-----BEGIN CERTIFICATE") :]


def _write(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
