# SPDX-License-Identifier: Apache-2.0
"""A systemd unit that keeps a worker running: ``decnn worker … --unit``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = """\
[Unit]
Description=decnn worker
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=always
RestartSec=5
User={user}
# What a coordinator sends runs here: it gets this account's folders of its own, and no more.
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
{limits}
[Install]
WantedBy=multi-user.target
"""


def unit(arguments: Sequence[str], *, memory: int | None, keys: str | None) -> str:
    """Return the unit of a worker with these options, for this Python and this user.

    Parameters
    ----------
    arguments : sequence of str
        Options of ``decnn worker``.
    memory : int, optional
        Bytes that the worker may take; the system ends it a quarter above.
    keys : str, optional
        Its folder of keys, which is made absolute.
    """
    given = [str(Path(a).resolve()) if a == keys else a for a in arguments]
    command = " ".join(_quoted(a) for a in (sys.executable, "-m", "decnn_tvm", "worker", *given))
    limits = "" if memory is None else f"MemoryMax={memory + memory // 4}\n"
    return TEMPLATE.format(command=command, user=_user(), limits=limits)


def _quoted(text: str) -> str:
    """Return an argument as systemd reads it: its percent and dollar signs doubled."""
    plain = text.replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if " " in plain else plain


def _user() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"
