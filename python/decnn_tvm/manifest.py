# SPDX-License-Identifier: Apache-2.0
"""``manifest.json`` of a package, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Plan

FORMAT = 1
MANIFEST = "manifest.json"
_KEYS = ("format", "versions", "targets", "files", "workers", "plan")
_OPTIONAL = ("shares", "worker_names")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLibraries:
    """The libraries of one target.

    Attributes
    ----------
    target : dict
        TVM's target, as JSON.
    machine : str
        What `platform.machine()` must say, such as ``x86_64`` or ``aarch64``.
    features : tuple of str
        CPU features that the code uses, as in the flags of ``/proc/cpuinfo``.
    libraries : dict of int to str
        Number of groups to the library's path in the package; one library may serve several.
    """

    target: dict[str, Any]
    machine: str
    features: tuple[str, ...]
    libraries: dict[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes
    ----------
    plan : Plan
        The split network.
    targets : dict of str to TargetLibraries
        By name.
    versions : dict of str to str
        What it was made with.
    files : dict of str to str
        SHA-256 of every file.
    workers : int
        How many devices it was compiled for.
    shares : tuple of int, optional
        Groups of each of them that were asked for or planned: what is dealt to so many workers,
        unless told otherwise. None: as even as possible.
    worker_names : tuple of str
        What a cluster file calls the workers that the shares are planned for, in their order;
        empty where they are nobody's.
    format : int
        Version of this file.
    """

    plan: Plan
    targets: dict[str, TargetLibraries]
    versions: dict[str, str]
    files: dict[str, str]
    workers: int
    shares: tuple[int, ...] | None = None
    worker_names: tuple[str, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        for key, values in (("shares", self.shares), ("worker_names", self.worker_names or None)):
            if values is not None and len(values) != self.workers:
                raise ValueError(f"{key} {list(values)}: expected {self.workers}, one a worker")

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON data."""
        targets = {
            name: {
                "target": t.target,
                "machine": t.machine,
                "features": list(t.features),
                "libraries": {str(k): path for k, path in t.libraries.items()},
            }
            for name, t in self.targets.items()
        }
        planned = {"shares": list(self.shares or ()), "worker_names": list(self.worker_names)}
        return {
            "format": self.format,
            "versions": self.versions,
            "targets": targets,
            "files": self.files,
            "workers": self.workers,
            **{key: values for key, values in planned.items() if values},
            "plan": self.plan.to_json(),
        }

    @staticmethod
    def from_json(data: Any) -> Manifest:
        """Read what `to_json` wrote; raise `PackageError` on anything else."""
        if not isinstance(data, dict) or "format" not in data:
            raise PackageError(
                f"{MANIFEST}: not a decnn-tvm package. Pass a folder that `decnn compile` wrote."
            )
        if data["format"] != FORMAT:
            raise PackageError(
                f"{MANIFEST}: package format {data['format']}, expected {FORMAT}. "
                "Compile the package again with this version of decnn-tvm."
            )
        try:
            return _parsed(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(
                f"{MANIFEST}: damaged ({type(error).__name__}: {error}). Compile the package again."
            ) from error


def _parsed(data: dict[str, Any]) -> Manifest:
    if unknown := sorted({*data} - {*_KEYS, *_OPTIONAL}):
        raise KeyError(*unknown)
    targets = {
        name: TargetLibraries(
            target=dict(t["target"]),
            machine=str(t["machine"]),
            features=tuple(t["features"]),
            libraries={int(k): str(path) for k, path in t["libraries"].items()},
        )
        for name, t in data["targets"].items()
    }
    return Manifest(
        plan=Plan.from_json(data["plan"]),
        targets=targets,
        versions=dict(data["versions"]),
        files=dict(data["files"]),
        workers=int(data["workers"]),
        shares=tuple(int(share) for share in data["shares"]) if "shares" in data else None,
        worker_names=tuple(str(name) for name in data.get("worker_names", ())),
    )
