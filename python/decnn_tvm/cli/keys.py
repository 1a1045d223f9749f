# SPDX-License-Identifier: Apache-2.0
"""``decnn keys``: make the credentials of a cluster."""

from __future__ import annotations

import argparse

from decnn_tvm.cli.options import Commands, add_command

EXAMPLE = """\
  decnn keys keys --workers pi1 pi2
  scp -rp keys/pi1 pi1:keys        # and keys/pi2 to pi2; nothing else leaves this machine
  ssh pi1 decnn worker --host 192.168.0.11 --port 7000 --keys keys
  decnn run net.pkg --connect 192.168.0.11:7000 192.168.0.12:7000 --keys keys/coordinator

one more worker later, and one that is no longer trusted:
  decnn keys keys --workers pi3
  rm -r keys/pi1 keys/coordinator/trusted/pi1.pem"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "keys",
        "make a cluster's credentials",
        "Make the credentials of a cluster: a folder for the coordinator and one for each worker.\n"
        "A worker's folder lets the coordinator in, the coordinator's folder knows the workers;\n"
        "whoever holds neither gets nothing. Existing keys are never overwritten, and workers can\n"
        "be added at any time. Folders have mode 0700 and secrets 0600, which must stay so.",
        EXAMPLE,
    )
    parser.add_argument("folder", metavar="DIR", help="where the folders are made")
    parser.add_argument(
        "--workers",
        nargs="+",
        metavar="NAME",
        help="one identity for each worker (default: one called 'worker' that all share)",
    )
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from decnn_tvm.keys import WORKER, make_keys
    from decnn_tvm.runtime.credentials import COORDINATOR

    made = make_keys(options.folder, options.workers or (WORKER,))
    coordinator = made[0].parent / COORDINATOR
    print(f"{coordinator}: stays here, for `decnn run --keys {coordinator}` and `decnn status`")
    for folder in made:
        where = "every worker" if not options.workers else f"worker {folder.name}"
        print(f"{folder}: copy to {where} (scp -rp), for `decnn worker --keys {folder.name}`")
