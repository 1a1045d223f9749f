# SPDX-License-Identifier: Apache-2.0
"""Whose certificate was shown at which address: one worker must not answer at another's.

A coordinator trusts several workers, and each of them has a certificate that passes. So what an
address showed first is remembered, in memory and, beyond loopback, in ``known.json`` beside the
identity, as ssh remembers hosts: ``{"192.168.0.11:7000": "pi1"}``. The name is that of the file in
``trusted/``, so that a worker may get new keys under its name; one whose file is gone is forgotten.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.exposure import is_loopback

logger = logging.getLogger(__name__)

KNOWN = "known.json"
_FINGERPRINT = re.compile("[0-9a-f]{64}")
"""What stands for a certificate that is in no file itself, but was signed by one that is."""
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Pins:
    """What is known of the addresses that one coordinator connects to.

    Parameters
    ----------
    folder : Path
        The coordinator's.
    trusted : sequence of Path
        The certificates that it trusts.
    """

    def __init__(self, folder: Path, trusted: Sequence[Path]) -> None:
        self._path, self._names = folder / KNOWN, {path.stem for path in trusted}
        self._owners = {
            ssl.PEM_cert_to_DER_cert(text): path.stem
            for path in trusted
            for text in _CERTIFICATE.findall(path.read_text(errors="replace"))
        }
        self._lock = threading.Lock()
        self._seen: dict[str, str] = {}

    def check(self, address: str, certificate: bytes) -> None:
        """Take in that an address has shown a trusted certificate, in DER.

        Raises
        ------
        ClusterError
            It is another worker's than before.
        """
        shown = self._owners.get(certificate) or hashlib.sha256(certificate).hexdigest()
        lasting = not is_loopback(address.rpartition(":")[0])
        with self._lock:
            known = {**(self._read() if lasting else {}), **self._seen}
            before = known.get(address, shown)
            if before != shown and (before in self._names or _FINGERPRINT.fullmatch(before)):
                self._refuse(address, before, shown, lasting=lasting)
            self._seen[address] = shown
            if lasting and known.get(address) != shown:
                self._write(address, shown)

    def _refuse(self, address: str, before: str, shown: str, *, lasting: bool) -> None:
        remedy = f"take {address} out of {self._path}" if lasting else "connect anew"
        raise ClusterError(
            f"the certificate of {shown!r} answers at {address}, where that of {before!r} did. If "
            f"these machines have changed places, {remedy}; if not, look who answers there."
        )

    def _read(self) -> dict[str, str]:
        try:
            data = json.loads(self._path.read_text())
            return {str(address): str(name) for address, name in data.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ClusterError(
                f"{self._path}: can't be read ({error}). Repair it; without it, nobody knows whose "
                "certificate belongs to which address."
            ) from error

    def _write(self, address: str, shown: str) -> None:
        draft = self._path.with_name(f"{KNOWN}.{os.getpid()}")
        try:
            text = json.dumps({**self._read(), address: shown}, indent=2, sort_keys=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
                f.write(f"{text}\n")
            draft.replace(self._path)
        except OSError as error:
            logger.warning("%s: can't be written, so it is remembered no longer: %s", draft, error)
