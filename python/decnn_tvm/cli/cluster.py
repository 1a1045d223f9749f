# SPDX-License-Identifier: Apache-2.0
"""``decnn cluster``: write a cluster file, and find out whether the cluster works."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.connection import CLUSTER
from decnn_tvm.cli.options import Commands, add_command, positive_seconds, size_option
from decnn_tvm.cli.show_report import show_report

if TYPE_CHECKING:
    from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
    from decnn_tvm.doctor.findings import Report

EXAMPLE = """\
  decnn cluster init --workers pi-1=192.168.1.11:9100 pi-2=192.168.1.12:9100 --target rpi4
  decnn cluster check --package grouped.pkg
  decnn run grouped.pkg --cluster cluster.toml --input cat.jpg"""
INIT_EXAMPLE = """\
  decnn cluster init --workers pi-1=192.168.1.11:9100 pi-2=192.168.1.12:9100 --target rpi4
  decnn cluster init --workers a=127.0.0.1:7000 b=127.0.0.1:7001 --no-keys"""
CHECK_EXAMPLE = """\
  decnn cluster check
  decnn cluster check boards.toml --package grouped.pkg --save-links"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "cluster",
        "describe a cluster in a file, and check it",
        "Describe a cluster in a file that the other commands take with --cluster, and find out\n"
        "whether it works.",
        EXAMPLE,
    )
    verbs = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=type(parser)
    )
    _add_init(verbs, common)
    _add_check(verbs, common)
    return parser


def _add_init(verbs: Commands, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        verbs,
        common,
        "init",
        "write a cluster file, and make the keys",
        "Write a cluster file and make the keys of its coordinator and workers beside it. Says\n"
        "what to do on each worker. Nothing that is there is overwritten.",
        INIT_EXAMPLE,
    )
    parser.add_argument(
        "-o", "--output", default=CLUSTER, metavar="FILE", help=f"file to write ({CLUSTER})"
    )
    parser.add_argument(
        "--workers",
        nargs="+",
        required=True,
        type=_named_address,
        metavar="NAME=HOST:PORT",
        help="the workers, by rank",
    )
    parser.add_argument("--target", default="host", help="what they all are ('host')")
    parser.add_argument("--memory", type=size_option, metavar="SIZE", help="limit of each")
    parser.add_argument("--tracker", metavar="HOST:PORT", help="RPC tracker to tune with")
    parser.add_argument(
        "--keys", default="keys", metavar="DIR", help="folder of keys, beside the file (keys)"
    )
    parser.add_argument("--no-keys", action="store_true", help="make no keys: workers on loopback")
    parser.set_defaults(act=_init)


def _add_check(verbs: Commands, common: argparse.ArgumentParser) -> None:
    parser = add_command(
        verbs,
        common,
        "check",
        "try every worker and every link",
        "Try every worker (reachable, keys, versions, processor, memory, clock), the tracker, and\n"
        "the link between every two machines, over the sockets that samples take. Says what to\n"
        "do about each failure. Busy workers are left alone. Exit status 1 if a check failed.",
        CHECK_EXAMPLE,
    )
    parser.add_argument(
        "file", nargs="?", default=CLUSTER, metavar="FILE", help=f"the cluster file ({CLUSTER})"
    )
    parser.add_argument(
        "--package", metavar="PKG", help="what the workers are to run; checks that it fits them"
    )
    parser.add_argument("--insecure", action="store_true", help="reach other machines without keys")
    parser.add_argument("--no-links", action="store_true", help="don't measure the links")
    parser.add_argument(
        "--save-links", action="store_true", help="write the measured links to the file"
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=10.0,
        metavar="S",
        help="seconds that a worker may take for an answer (10)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(act=_check)


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    options.act(options)


def _init(options: argparse.Namespace) -> None:
    from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
    from decnn_tvm.errors import InputError
    from decnn_tvm.keys import make_keys

    path = Path(options.output)
    if path.exists():
        raise InputError(f"cluster {path}: is there already. Edit it, or choose another -o.")
    workers = tuple(
        ClusterWorker(
            name=name,
            address=address,
            target=options.target,
            memory=options.memory,
            tuning_key=options.target if options.tracker else None,
        )
        for name, address in options.workers
    )
    keys = None if options.no_keys else path.parent / options.keys
    cluster = ClusterFile(workers=workers, credentials=keys, tracker=options.tracker)
    cluster.write(path)
    try:
        ClusterFile.read(path)  # which refuses bad names and addresses
        if keys is not None:
            make_keys(keys, [worker.name for worker in workers])
    except InputError:
        path.unlink()
        raise
    print(f"{path}: {len(workers)} workers; next, for each of them:")
    for worker in workers:
        _show_steps(worker, cluster)
    print(f"then: decnn cluster check {path}")


def _show_steps(worker: ClusterWorker, cluster: ClusterFile) -> None:
    host, _, port = worker.address.rpartition(":")
    command = f"decnn worker --host {host} --port {port}"
    if cluster.credentials is not None:
        print(f"  scp -rp {cluster.credentials / worker.name} {host}:decnn-keys")
        command += " --keys decnn-keys"
    if worker.memory is not None:
        command += f" --memory {worker.memory >> 20}M"
    print(f"  there: {command}")


def _check(options: argparse.Namespace) -> None:
    from decnn_tvm.cli.compile import progress_bar
    from decnn_tvm.cluster_file import ClusterFile, save_links
    from decnn_tvm.doctor.cluster_check import check_cluster
    from decnn_tvm.doctor.link_checks import measured_links
    from decnn_tvm.package import Package

    cluster = ClusterFile.read(options.file)
    manifest = Package(options.package).manifest if options.package else None
    with progress_bar("workers") as progress:
        report = check_cluster(
            cluster,
            manifest=manifest,
            insecure=options.insecure,
            timeout=options.timeout,
            links=not options.no_links,
            progress=progress,
        )
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        show_report(report)
    if options.save_links and report.links:
        save_links(options.file, measured_links(report.links))
    _raise_failures(report)


def _raise_failures(report: Report) -> None:
    from decnn_tvm.errors import ClusterError

    if failures := report.of("failure"):
        names = ", ".join(f"{finding.subject} ({finding.check})" for finding in failures)
        raise ClusterError(f"{len(failures)} of {len(report.findings)} checks failed: {names}")


def _named_address(text: str) -> tuple[str, str]:
    name, separator, address = text.partition("=")
    if not (name and separator and address):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=HOST:PORT")
    return name, address
