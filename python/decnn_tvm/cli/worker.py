# SPDX-License-Identifier: Apache-2.0
"""``decnn worker``: serve one device."""

from __future__ import annotations

import argparse
import os

from decnn_tvm.cli.options import Commands, add_command, positive, size_option
from decnn_tvm.cli.worker_unit import unit

EXAMPLE = """\
  decnn worker --port 7000 &
  decnn worker --port 7001 &
  decnn run resnet50.pkg --connect 127.0.0.1:7000 127.0.0.1:7001

on a board, with the folder that `decnn keys` made for it:
  decnn worker --host 192.168.0.11 --port 7000 --keys pi1

and to tune on it, through a tunnel to a tracker:
  decnn worker --host 192.168.0.11 --port 7000 --keys pi1 --tuning 127.0.0.1:9190 \\
    --tuning-key rpi4

before that, and for ever after:
  decnn worker --host 192.168.0.11 --port 7000 --keys pi1 --check
  decnn worker --host 192.168.0.11 --port 7000 --keys pi1 --unit \\
    | sudo tee /etc/systemd/system/decnn-worker.service"""

PASSED_ON = ("keys", "metrics", "memory", "tuning", "tuning_key", "tuning_host", "tuning_port")
"""Options that go to the worker process as they are."""


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
    parser.add_argument(
        "--check", action="store_true", help="look whether this machine can be such a worker"
    )
    parser.add_argument(
        "--unit", action="store_true", help="print a systemd unit that keeps such a worker running"
    )
    tuning = parser.add_argument_group(
        "tuning", "offer this machine to `decnn tune` as well, in a process of its own"
    )
    tuning.add_argument("--tuning", metavar="HOST:PORT", help="RPC tracker to register at")
    tuning.add_argument("--tuning-key", metavar="KEY", help="what to be registered as: rpi4")
    tuning.add_argument(
        "--tuning-host",
        metavar="ADDRESS",
        help="interface of TVM's RPC, which asks nobody who he is (127.0.0.1, for a tunnel)",
    )
    tuning.add_argument("--tuning-port", type=_port, metavar="PORT", help="its port (9091)")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command; the process ends with the worker."""
    if options.check:
        _check(options)
        return
    if options.unit:
        threads = ["--threads", str(options.threads)] if options.threads else []
        arguments = [*_arguments(options), *threads]
        print(unit(arguments, memory=options.memory, keys=options.keys), end="")
        return
    if options.threads:
        os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from decnn_tvm.runtime.worker import main

    main(_arguments(options))


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the options that go to the worker process."""
    arguments = ["--host", options.host, "--port", str(options.port)]
    for name in PASSED_ON:
        if value := getattr(options, name):
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return [*arguments, *(["--insecure"] if options.insecure else [])]


def _check(options: argparse.Namespace) -> None:
    from decnn_tvm.cli.show_report import show_lines
    from decnn_tvm.doctor.machine_check import WorkerOptions, check_machine
    from decnn_tvm.errors import ClusterError

    found = check_machine(
        WorkerOptions(
            host=options.host,
            port=options.port,
            keys=options.keys,
            insecure=options.insecure,
            memory=options.memory,
            tracker=options.tuning,
        )
    )
    show_lines(found)
    if failures := [f.check for f in found if f.verdict == "failure"]:
        raise ClusterError(f"this machine can't be that worker: {', '.join(failures)}")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 65535")
    return int(text)
