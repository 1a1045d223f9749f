# SPDX-License-Identifier: Apache-2.0
"""``decnn worker``: serve one device."""

from __future__ import annotations

import argparse
import os
import re

from decnn_tvm.cli.options import Commands, add_command, positive

EXAMPLE = """\
  decnn worker --port 7000 &
  decnn worker --port 7001 &
  decnn run resnet50.pkg --connect 127.0.0.1:7000 127.0.0.1:7001"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "worker",
        "serve one device until Ctrl-C",
        "Serve one device until Ctrl-C or SIGTERM. Prints its address as one line of JSON.\n"
        "Whoever reaches the port can run code here, so only loopback is allowed, unless you pass\n"
        "--insecure for a network that you trust.",
        EXAMPLE,
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="control port (any free one)")
    parser.add_argument(
        "--insecure", action="store_true", help="allow a host that other machines can reach"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of the kernels")
    parser.add_argument(
        "--memory",
        type=_size,
        metavar="SIZE",
        help="memory that the worker may take, such as 64M or 1.5G (what the machine has)",
    )
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command; the process ends with the worker."""
    if options.threads:
        os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from decnn_tvm.runtime.worker import main

    insecure = ["--insecure"] if options.insecure else []
    memory = ["--memory", str(options.memory)] if options.memory else []
    main(["--host", options.host, "--port", str(options.port), *insecure, *memory])


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)i?B?", text)
    size = int(float(found[1]) * 1024 ** " KMG".index(found[2] or " ")) if found else 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size such as 64M or 1.5G")
    return size


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 65535")
    return int(text)
