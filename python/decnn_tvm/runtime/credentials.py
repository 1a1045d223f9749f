# SPDX-License-Identifier: Apache-2.0
"""Who a process is and whom it trusts: a folder that `decnn keys` made.

::

    identity.pem         private key and certificate of this process, readable by its owner alone
    trusted/NAME.pem     certificates of those it talks to, and of nobody else
    known.json           the coordinator's memory of which worker is at which address

The coordinator's folder trusts the workers, a worker's folder trusts the coordinator. There is no
authority that signs, so nothing but these files decides: who is to be shut out is deleted from
``trusted``. Certificates do not expire, because boards without a clock start in 1970.

Both planes rest on it. The control plane is TLS 1.3 in which both ends show their certificate. Over
it travel the keys of the data plane: each end makes a fresh CURVE key pair for every session, so no
file holds one, and what was recorded can't be read or replayed later.

Protected: who takes part, and what is said, against anyone on the network without a key. Not
protected: a machine whose own folder was read (it can pose as that machine), a coordinator that
means ill (it may run code on its workers, that is what it is for), and the traffic's size and time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.pins import Pins

IDENTITY = "identity.pem"
TRUSTED = "trusted"
COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A checked folder of credentials.

    Attributes
    ----------
    folder : Path
        Where they are.
    trusted : tuple of Path
        The certificates of those that are trusted.
    pins : Pins
        Which of them has shown up where.
    """

    folder: Path
    trusted: tuple[Path, ...]
    pins: Pins = field(compare=False, repr=False)

    @staticmethod
    def load(folder: Path | str) -> Credentials:
        """Check a folder and return it.

        Raises
        ------
        InputError
            It is no such folder, others can read its secret, it trusts nobody, or a file in it is
            no certificate.
        """
        folder = Path(folder)
        _check_identity(folder)
        trusted = tuple(sorted((folder / TRUSTED).glob("*.pem")))
        if not trusted:
            raise InputError(
                f"keys {folder}: no certificate in {TRUSTED}/, so nobody could connect. Copy the "
                "whole folder that `decnn keys` made."
            )
        _context(ssl.PROTOCOL_TLS_CLIENT, folder, trusted)
        return Credentials(folder=folder, trusted=trusted, pins=Pins(folder, trusted))

    def server_context(self) -> ssl.SSLContext:
        """Return what a worker accepts connections with, from those that it trusts."""
        context = _context(ssl.PROTOCOL_TLS_SERVER, self.folder, self.trusted)
        context.num_tickets = 0  # nobody resumes: every connection shows its certificate
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return what a coordinator connects with; it shows its certificate to the worker."""
        return _context(ssl.PROTOCOL_TLS_CLIENT, self.folder, self.trusted)

    def secure(self, plain: socket.socket, address: str) -> ssl.SSLSocket:
        """Return a coordinator's connection to a worker, encrypted; `plain` is used up.

        Raises
        ------
        OSError
            The other end is not trusted, or does not trust this one.
        ClusterError
            It is another worker than the one that was at this address before.
        """
        secured = self.client_context().wrap_socket(plain)
        try:
            self.pins.check(address, secured.getpeercert(binary_form=True) or b"")
        except BaseException:
            secured.close()
            raise
        return secured


def _context(protocol: ssl._SSLMethod, folder: Path, trusted: Sequence[Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # A certificate is trusted because it is in the folder; boards have no names in DNS.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(folder / IDENTITY)
        for path in trusted:
            context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"keys {folder}: damaged ({error}). Copy the folder again, or make new keys with "
            "`decnn keys`."
        ) from error
    return context


def cluster_folders(folder: Path | str) -> tuple[Path, tuple[Path, ...]]:
    """Return the coordinator's folder and the workers' in a folder that `decnn keys` made.

    Raises
    ------
    InputError
        It is no such folder.
    """
    folder = Path(folder)
    own = folder / COORDINATOR
    others = tuple(p.parent for p in sorted(folder.glob(f"*/{IDENTITY}")) if p.parent != own)
    if not (own / IDENTITY).is_file() or not others:
        raise InputError(
            f"keys {folder}: expected the whole folder that `decnn keys` made, with "
            f"{COORDINATOR}/ and a folder for each worker."
        )
    return own, others


def _check_identity(folder: Path) -> None:
    identity = folder / IDENTITY
    if (folder / COORDINATOR / IDENTITY).is_file():
        raise InputError(
            f"keys {folder}: holds the folders of a whole cluster. Pass {folder / COORDINATOR} at "
            "the coordinator, and the worker's own folder at a worker."
        )
    try:
        mode = identity.stat().st_mode
    except OSError as error:
        raise InputError(
            f"keys {folder}: no {IDENTITY} there ({error.strerror}). Make keys with `decnn keys`."
        ) from error
    if mode & 0o077:
        raise InputError(
            f"keys {identity}: mode {mode & 0o777:o}, so others can read the secret; expected 600. "
            f"Run `chmod 600 {identity}`."
        )
