# SPDX-License-Identifier: Apache-2.0
"""A profile: what `decnn profile` measured, as frozen data and as a JSON file.

Everything has its unit in its name. A profile is of one package on one cluster; what it says of
the links and of the processors holds for any package there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import InputError
from decnn_tvm.plan import Plan
from decnn_tvm.runtime.credentials import COORDINATOR

SCHEMA = 1
LARGEST = 1e18
"""Numbers in a file beyond this are damage: no rate, clock, size or time is as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProfile:
    """One stage on one worker.

    Attributes
    ----------
    function : str
        The stage.
    seconds : float
        Mean time on ready data, the stages in turn.
    estimated_cycles : float
        What the cost model says of it, 0 where the package does not tell.
    kernels : dict of str to float
        Share of the time in each kernel, by the compiler's names.
    """

    function: str
    seconds: float
    estimated_cycles: float
    kernels: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProfile:
    """One worker, or the coordinator, which has neither groups nor stages.

    Attributes
    ----------
    name : str
        Its name in the cluster's file.
    target : str
        Which of the package's targets it ran.
    groups : int
        How many of the plan's groups it had.
    stages : tuple of StageProfile
        In the plan's order.
    seconds_per_message, seconds_per_byte : float
        What a message takes of its processors' time, sending and receiving alike, as it comes off
        the stages.
    weight_bytes : int
        Packed weights.
    memory_bytes : int, optional
        What a session may take there, above what the process takes idle.
    """

    name: str
    target: str
    groups: int
    stages: tuple[StageProfile, ...]
    seconds_per_message: float
    seconds_per_byte: float
    weight_bytes: int
    memory_bytes: int | None

    @property
    def cycles_per_second(self) -> float:
        """The clock at which the cost model's cycles take what was measured; 0 if unknown."""
        cycles = sum(stage.estimated_cycles for stage in self.stages)
        seconds = sum(stage.seconds for stage in self.stages)
        return cycles / seconds if seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """A link between two machines, by name; `between` is in no order."""

    between: tuple[str, str]
    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A package on a cluster, measured.

    Attributes
    ----------
    model : str
        The network.
    plan_sha256 : str
        Of the plan whose stages were timed.
    workers : tuple of WorkerProfile
        By rank.
    coordinator : WorkerProfile
        The machine that feeds the samples.
    links : tuple of LinkProfile
        Those that were measured.
    coordinator_bytes_per_second : float, optional
        What the coordinator's port sends to several workers at a time, at least; taken for what it
        receives too. None where it was not measured, as by earlier versions.
    """

    model: str
    plan_sha256: str
    workers: tuple[WorkerProfile, ...]
    coordinator: WorkerProfile
    links: tuple[LinkProfile, ...]
    coordinator_bytes_per_second: float | None = None

    def worker(self, name: str) -> WorkerProfile | None:
        """Return what was measured on a worker, by its name."""
        return next((worker for worker in self.workers if worker.name == name), None)

    def write(self, path: Path | str) -> None:
        """Write the profile to a file.

        Raises
        ------
        InputError
            It can't be written.
        """
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        try:
            Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"profile {path}: can't be written ({error.strerror}).") from error

    @staticmethod
    def read(path: Path | str) -> Profile:
        """Read what `write` wrote.

        Raises
        ------
        InputError
            The file is missing, of another version, or damaged.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is no JSON"
            raise InputError(
                f"profile {path}: can't be read ({reason}). `decnn profile` writes one."
            ) from error
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise InputError(
                f"profile {path}: schema {schema!r}, expected {SCHEMA}. Measure it again."
            )
        try:
            return _from_json(data)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"profile {path}: damaged ({type(error).__name__}: {error}). Measure it again."
            ) from error


def plan_sha256(plan: Plan) -> str:
    """Return what tells a plan from others."""
    return hashlib.sha256(json.dumps(plan.to_json(), sort_keys=True).encode()).hexdigest()


def _from_json(data: dict[str, Any]) -> Profile:
    profile = Profile(
        **{
            **data,
            "model": _entry(data, "model", str),
            "plan_sha256": _entry(data, "plan_sha256", str),
            "workers": tuple(_worker(entry) for entry in _entry(data, "workers", list)),
            "coordinator": _worker(data["coordinator"]),
            "links": tuple(_link(entry) for entry in _entry(data, "links", list)),
        }
    )
    if data.get("coordinator_bytes_per_second") is not None:
        _entry(data, "coordinator_bytes_per_second", int, float)
    _check_names(profile)
    return profile


def _check_names(profile: Profile) -> None:
    """Raise ValueError where machines are not told apart, or links are not between them."""
    workers = [worker.name for worker in profile.workers]
    if not workers or not profile.links:
        raise ValueError("expected a worker and a link at least")
    if profile.coordinator.name != COORDINATOR or len({COORDINATOR, *workers}) <= len(workers):
        raise ValueError(
            f"machines {[profile.coordinator.name, *workers]}: expected {COORDINATOR!r} first, and "
            "each once"
        )
    for link in profile.links:
        if len({*link.between}) < 2 or not {*link.between} <= {COORDINATOR, *workers}:
            raise ValueError(f"a link between {link.between}: expected two of the machines")


def _worker(entry: dict[str, Any]) -> WorkerProfile:
    stages = tuple(_stage(each) for each in _entry(entry, "stages", list))
    for key in ("name", "target"):
        _entry(entry, key, str)
    for key in ("groups", "weight_bytes"):
        _entry(entry, key, int)
    for key in ("seconds_per_message", "seconds_per_byte"):
        _entry(entry, key, int, float)
    _entry(entry, "memory_bytes", int, type(None))
    return WorkerProfile(**{**entry, "stages": stages})


def _stage(entry: dict[str, Any]) -> StageProfile:
    kernels = _entry(entry, "kernels", dict)
    for key in kernels:
        _entry(kernels, key, int, float)
    _entry(entry, "estimated_cycles", int, float)
    if not _entry(entry, "seconds", int, float):
        raise ValueError(f"{entry['function']!r} took no time")
    return StageProfile(**{**entry, "function": _entry(entry, "function", str)})


def _link(entry: dict[str, Any]) -> LinkProfile:
    one, other = (str(name) for name in _entry(entry, "between", list))
    _entry(entry, "latency_seconds", int, float)
    if _entry(entry, "bytes_per_second", int, float) < 1:
        raise ValueError(f"next to nothing passes between {one!r} and {other!r}")
    return LinkProfile(**{**entry, "between": (one, other)})


def _entry(data: dict[str, Any], key: str, *kinds: type) -> Any:
    """Return what a key stands for; raise ValueError where it is of no such kind or range."""
    value = data[key]
    numeric = type(value) in (int, float)
    if type(value) not in kinds or (numeric and not 0 <= value <= LARGEST):
        names = " or ".join(kind.__name__ for kind in kinds)
        limits = f" from 0 to {LARGEST:g}" if numeric else ""
        raise ValueError(f"{key} is {reprlib.repr(value)}; expected {names}{limits}")
    return value


__all__ = ["COORDINATOR", "LinkProfile", "Profile", "StageProfile", "WorkerProfile", "plan_sha256"]
