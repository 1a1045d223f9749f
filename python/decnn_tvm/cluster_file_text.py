# SPDX-License-Identifier: Apache-2.0
"""A cluster's file as lines of TOML, which the standard library reads but does not write.

Lines rather than the whole file: `decnn_tvm.cluster_file.save_links` leaves what a person wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decnn_tvm.quantities import format_rate, format_size, format_time

if TYPE_CHECKING:
    from decnn_tvm.cluster_file import ClusterFile, ClusterLink, ClusterWorker


def cluster_lines(made: ClusterFile, folder: Path) -> list[str]:
    """Return the head of the file; paths inside `folder` are relative to it."""
    port = made.coordinator_bandwidth
    values: dict[str, Any] = {
        "tracker": made.tracker,
        "coordinator_bandwidth": None if port is None else format_rate(port),
    }
    if made.credentials is not None:
        path = made.credentials.resolve()
        inside = path.is_relative_to(folder)
        values["credentials"] = str(path.relative_to(folder) if inside else path)
    return _table_lines("[cluster]", values)


def worker_lines(worker: ClusterWorker) -> list[str]:
    """Return the table of a worker."""
    values = {
        "name": worker.name,
        "address": worker.address,
        "target": worker.target,
        "memory": None if worker.memory is None else format_size(worker.memory),
        "tuning_key": worker.tuning_key,
    }
    return _table_lines("[[worker]]", values)


def link_lines(links: Sequence[ClusterLink]) -> list[str]:
    """Return the tables of links."""
    lines = []
    for link in links:
        values = {
            "between": None if link.between is None else list(link.between),
            "bandwidth": format_rate(link.bandwidth),
            "latency": format_time(link.latency),
        }
        lines += _table_lines("[[link]]", values)
    return lines


def _table_lines(header: str, values: Mapping[str, Any]) -> list[str]:
    given = {key: value for key, value in values.items() if value is not None}
    return ["", header, *(f"{key} = {_toml(value)}" for key, value in given.items())]


def _toml(value: Any) -> str:
    """Return a value as TOML writes it; JSON does it alike but for tables."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
