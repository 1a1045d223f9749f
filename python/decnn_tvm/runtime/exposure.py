# SPDX-License-Identifier: Apache-2.0
"""The one rule on addresses: loopback is free, any other takes keys or an explicit word."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence

from decnn_tvm.errors import InputError

logger = logging.getLogger(__name__)

ANY = ("", "*", "0.0.0.0", "::")
"""What stands for all interfaces at once."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`, an IP address or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reached_from(hosts: Iterable[str]) -> str:
    """Return this machine's address that all workers reach: one beyond loopback if one of them is.

    Parameters
    ----------
    hosts : iterable of str
        This machine's addresses that the workers see.
    """
    return next((host for host in hosts if not is_loopback(host)), "127.0.0.1")


def check_exposure(host: str, *, keys: bool, insecure: bool) -> None:
    """Refuse an address beyond loopback that nothing protects.

    Parameters
    ----------
    host : str
        Where a socket listens, or where it connects to.
    keys : bool
        Whether both planes authenticate and encrypt.
    insecure : bool
        Whether the user takes the risk.

    Raises
    ------
    InputError
        Other machines reach it, there are no keys, and nobody said `insecure`, or said it for all
        interfaces at once.
    """
    if keys or is_loopback(host):
        return
    if not insecure:
        raise InputError(
            f"host {host!r}: other machines may reach it and run code here. Use 127.0.0.1, pass "
            "--keys (`decnn keys` makes them), or add --insecure in a network that you trust."
        )
    if host in ANY:
        raise InputError(
            f"host {host!r}: --insecure needs the address of one interface, not all of them."
        )


def accept_exposure(host: str, *, keys: bool, insecure: bool) -> None:
    """Do `check_exposure`, and warn, naming the interface, where the user takes the risk."""
    check_exposure(host, keys=keys, insecure=insecure)
    if not keys and not is_loopback(host):
        logger.warning("INSECURE: anyone who reaches %s can read the data and run code there", host)


def accept_all(addresses: Sequence[str], *, keys: bool, insecure: bool) -> None:
    """Do `accept_exposure` for the hosts of ``host:port`` addresses, once for each."""
    for host in dict.fromkeys(address.rpartition(":")[0] for address in addresses):
        if host:  # what is no address at all is refused where it is used
            accept_exposure(host, keys=keys, insecure=insecure)
