# SPDX-License-Identifier: Apache-2.0
"""A cluster on loopback with five faults in it, for whoever is to find them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.doctor.link_checks import Route
from decnn_tvm.keys import make_keys
from decnn_tvm.testing.boards import START, free_port
from decnn_tvm.testing.link_proxy import Proxies
from decnn_tvm.testing.process_output import first_line
from decnn_tvm.transfers import HOST

SLOW_RATE = 1e6
"""Bytes per second of the slow link, which is that of 8 Mb/s."""

_START = "from decnn_tvm.runtime.worker import main; main()"
_OLD_VERSION = """\
import decnn_tvm.runtime.machine as machine
real = machine.versions
machine.versions = lambda: {**real(), "apache-tvm": "0.26.0"}
"""
_PLAIN_PROCESSOR = """\
import decnn_tvm.runtime.machine as machine
machine.processor_features = lambda: ("fpu", "sse2")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyCluster:
    """The cluster: what its file says, and how its machines reach each other."""

    file: ClusterFile
    route: Route


@contextlib.contextmanager
def faulty_cluster(folder: Path) -> Iterator[FaultyCluster]:
    """Run workers called after their faults while the block runs.

    ``sound`` has none, ``far`` is behind a slow link, ``closed`` does not run, ``foreign`` has the
    keys of another cluster, ``old`` another version of TVM, and ``plain`` a processor without
    vectors.
    """
    names = ("sound", "far", "closed", "foreign", "old", "plain")
    make_keys(folder / "keys", names)
    make_keys(folder / "others", ("foreign",))
    with contextlib.ExitStack() as ends:
        ports = {name: _start(folder, name, ends) for name in names if name != "closed"}
        ports["closed"] = free_port()
        proxies = ends.enter_context(Proxies())
        far = names.index("far")

        def route(source: int, target: int, address: str) -> str:
            if far not in (source, target) or HOST not in (source, target):
                return address
            through = proxies.route(source, target, address)
            proxies.links[source, target].rate = SLOW_RATE
            return through

        workers = [ClusterWorker(name=n, address=f"127.0.0.1:{ports[n]}") for n in names]
        file = ClusterFile(workers=tuple(workers), credentials=folder / "keys")
        yield FaultyCluster(file=file, route=route)


def _start(folder: Path, name: str, ends: contextlib.ExitStack) -> int:
    """Start a worker process and return its port."""
    keys = folder / ("others" if name == "foreign" else "keys") / name
    fault = {"old": _OLD_VERSION, "plain": _PLAIN_PROCESSOR}.get(name, "")
    process = subprocess.Popen(
        [sys.executable, "-c", fault + _START, "--keys", str(keys), "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    ends.callback(_end, process)
    return int(json.loads(first_line(process, START))["port"])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
