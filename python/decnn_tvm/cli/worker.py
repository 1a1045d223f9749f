# SPDX-License-Identifier: Apache-2.0
"""``decnn worker``: serve one device."""

from __future__ import annotations

import argparse
import os

from decnn_tvm.cli.options import Commands, add_command, positive, size_option

EXAMPLE = """\
  decnn worker --port 7000 &
  decnn worker --port 7001 &
  decnn run resnet50.pkg --connect 127.0.0.1:7000 127.0.0.1:7001

on a board, with the folder that `decnn keys` made for it:
  decnn worker --host 192.168.0.11 --port 7000 --keys pi1"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "worker",
        "serve one device until Ctrl-C",
        "Serve one device until Ctrl-C or SIGTERM. Prints its address as one line of JSON.\n"
        "A coordinator can run code here, so without keys only loopback is served. With --keys\n"
        "the worker serves the coordinator that it trusts, nobody else, and all traffic is\n"
        "encrypted; --insecure does without in a network that you trust.",
        EXAMPLE,
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="control port (any free one)")
    parser.add_argument(
        "--keys", metavar="DIR", help="this worker's folder of those that `decnn keys` made"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="serve everybody who reaches --host, the address of one interface, without keys",
    )
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve Prometheus metrics over plain HTTP, on loopback unless HOST is given",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of the kernels")
    parser.add_argument(
        "--memory",
        type=size_option,
        metavar="SIZE",
        help="memory that the worker may take, such as 64M or 1.5G (what the machine has)",
    )
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command; the process ends with the worker."""
    if options.threads:
        os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from decnn_tvm.runtime.worker import main

    arguments = ["--host", options.host, "--port", str(options.port)]
    for name in ("keys", "metrics", "memory"):
        if value := getattr(options, name):
            arguments += [f"--{name}", str(value)]
    main([*arguments, *(["--insecure"] if options.insecure else [])])


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 65535")
    return int(text)
