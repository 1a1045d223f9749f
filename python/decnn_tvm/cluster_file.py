# SPDX-License-Identifier: Apache-2.0
"""A cluster in a file: which workers there are, what they are, and how they are linked.

::

    [cluster]
    credentials = "keys"             # folder that `decnn keys` made; absent: loopback only
    tracker = "127.0.0.1:9190"       # for tuning; optional
    coordinator_bandwidth = "1 Gb/s" # of its port, where links are slower; `decnn profile` measures

    [[worker]]                       # one for each, by rank
    name = "pi-1"
    address = "192.168.1.11:9100"
    target = "rpi4"                  # a name, or a table of TVM's target options
    memory = "2 GiB"                 # what the worker may take; optional
    tuning_key = "rpi4"              # what it is registered as at the tracker; optional

    [[link]]                         # measured by `decnn cluster check`, or stated by hand
    between = ["pi-1", "pi-2"]       # absent: every pair without a link of its own
    bandwidth = "940 Mb/s"
    latency = "0.2 ms"               # one way

A link counts in both directions. The name ``coordinator`` stands for the machine that feeds the
samples. Relative paths start at the file. `decnn_tvm.quantities` says how quantities are written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from decnn_tvm.cluster_file_text import cluster_lines, link_lines, worker_lines
from decnn_tvm.cluster_table import Table
from decnn_tvm.errors import InputError
from decnn_tvm.runtime.credentials import COORDINATOR, IDENTITY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINK = re.compile(r"\s*\[\[\s*link\s*\]\]")
_HEADER = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWorker:
    """A worker of the cluster.

    Attributes
    ----------
    name
        What messages, links and its folder of keys call it.
    address
        ``host:port``, where its control plane listens.
    target
        What is compiled for it: a name, or TVM's target options.
    memory
        Bytes that it may take, where a limit is set.
    tuning_key
        What it is registered as at the tracker, where it tunes.
    """

    name: str
    address: str
    target: str | Mapping[str, Any] = "host"
    memory: int | None = None
    tuning_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLink:
    """What moves between two machines, in either direction.

    Attributes
    ----------
    between
        Names of two workers, or of one and ``coordinator``; None for every other pair.
    bandwidth
        Bits per second.
    latency
        Seconds that a small message takes one way.
    """

    between: tuple[str, str] | None = None
    bandwidth: float
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """The content of a ``cluster.toml``.

    Attributes
    ----------
    workers
        By rank.
    credentials
        The folder that `decnn keys` made, or the coordinator's folder in it; None on loopback.
    tracker
        ``host:port`` of an RPC tracker.
    links
        What is known of the network.
    coordinator_bandwidth
        Bits per second of the coordinator's port, where it is not as fast as its links; prevails
        over what a profile measured.
    """

    workers: tuple[ClusterWorker, ...]
    credentials: Path | None = None
    tracker: str | None = None
    links: tuple[ClusterLink, ...] = ()
    coordinator_bandwidth: float | None = None

    @staticmethod
    def read(path: Path | str) -> ClusterFile:
        """Read a file.

        Raises
        ------
        InputError
            It is not there or no TOML, or a key or value is not one of a cluster; names the place
            and the remedy.
        """
        path = Path(path)
        return _parsed(path, _text(path))

    def write(self, path: Path | str) -> None:
        """Write the file anew, with paths relative to it where they lie beside it.

        Raises
        ------
        InputError
            It can't be written.
        """
        path = Path(path)
        lines = cluster_lines(self, path.parent.resolve())
        for worker in self.workers:
            lines += worker_lines(worker)
        _write(path, lines + link_lines(self.links))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the workers' control planes listen, by rank."""
        return tuple(worker.address for worker in self.workers)

    @property
    def keys(self) -> Path | None:
        """The coordinator's folder of keys."""
        if self.credentials is None:
            return None
        inner = self.credentials / COORDINATOR
        return inner if (inner / IDENTITY).is_file() else self.credentials

    @property
    def targets(self) -> tuple[str | Mapping[str, Any], ...]:
        """What to compile for: each worker's target, equal ones once."""
        found: list[str | Mapping[str, Any]] = []
        for worker in self.workers:
            if worker.target not in found:
                found.append(worker.target)
        return tuple(found)

    def board(self, key: str | None = None) -> ClusterWorker:
        """Return a worker that is registered at the tracker under `key`, or under the only key.

        Raises
        ------
        InputError
            There is none, or workers of several targets or under several keys.
        """
        known = [w for w in self.workers if w.tuning_key and key in (None, w.tuning_key)]
        kinds = {(worker.tuning_key, str(worker.target)) for worker in known}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{name!r} on {target}" for name, target in kinds)) or "none"
            raise InputError(
                f"tuning key {key!r} of the cluster: expected workers of one target under it, got "
                f"{found}. Pass --key, or set tuning_key of the workers."
            )
        return known[0]

    def link(self, one: str, other: str) -> ClusterLink | None:
        """Return what is known of the link between two machines, None where nothing is."""
        pair = {one, other}
        own = (link for link in self.links if link.between and set(link.between) == pair)
        every = (link for link in self.links if link.between is None)
        return next(own, None) or next(every, None)


def save_links(path: Path | str, links: Sequence[ClusterLink]) -> None:
    """Replace the links in a file, and leave all else in it as it is, comments too.

    Raises
    ------
    InputError
        The file is no cluster's, or can't be written.
    """
    path = Path(path)
    text = _text(path)
    before = _parsed(path, text)
    kept, inside = [], False
    for line in text.splitlines():
        inside = bool(_LINK.match(line)) or (inside and not _HEADER.match(line))
        if not inside:
            kept.append(line)
    lines = ["\n".join(kept).rstrip(), *link_lines(links)]
    after = _parsed(path, "\n".join(lines))
    if len(after.links) != len(links) or replace(after, links=before.links) != before:
        raise InputError(
            f"{path}: its links are written in a form that can't be replaced. Write each as a "
            "table of its own under [[link]]."
        )
    _write(path, lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(
            f"cluster {path}: can't be read ({reason}). `decnn cluster init` writes one."
        ) from error


def _parsed(path: Path, text: str) -> ClusterFile:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"cluster {path}: no TOML ({error}). `decnn cluster init` writes an example."
        ) from error
    top = Table(f"cluster {path}", data)
    head = top.table("cluster")
    workers = tuple(_worker(entry) for entry in top.tables("worker", "name"))
    links = tuple(_link(entry, workers) for entry in top.tables("link", "between"))
    top.end()
    credentials = head.text("credentials", None)
    made = ClusterFile(
        workers=workers,
        credentials=None if credentials is None else path.parent / credentials,
        tracker=head.address("tracker", None),
        links=links,
        coordinator_bandwidth=head.rate("coordinator_bandwidth", None),
    )
    head.end()
    _check(top, made)
    return made


def _worker(entry: Table) -> ClusterWorker:
    worker = ClusterWorker(
        name=entry.name("name"),
        address=entry.address("address"),
        target=entry.text_or_table("target", "host"),
        memory=entry.size("memory", None),
        tuning_key=entry.text("tuning_key", None),
    )
    entry.end()
    return worker


def _link(entry: Table, workers: Sequence[ClusterWorker]) -> ClusterLink:
    link = ClusterLink(
        between=entry.pair("between", {COORDINATOR, *(worker.name for worker in workers)}),
        bandwidth=entry.rate("bandwidth"),
        latency=entry.time("latency"),
    )
    entry.end()
    return link


def _check(top: Table, made: ClusterFile) -> None:
    if not made.workers:
        raise top.wrong("no worker", "expected a [[worker]] with name and address for each")
    for key, values in (
        ("worker name", [worker.name for worker in made.workers]),
        ("worker address", list(made.addresses)),
        ("[[link]] between", [" and ".join(sorted(link.between or ())) for link in made.links]),
    ):
        if twice := [value for value in values if values.count(value) > 1]:
            raise top.wrong(f"{key} {twice[0] or 'of every pair'} twice", "expected each once")


def _write(path: Path, lines: Sequence[str]) -> None:
    try:
        path.write_text("\n".join(lines).strip() + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cluster {path}: can't be written ({error.strerror}).") from error
