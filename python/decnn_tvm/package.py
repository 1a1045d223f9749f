# SPDX-License-Identifier: Apache-2.0
"""The package: what `compile` writes and workers load.

::

    manifest.json                      format, versions, plan, targets, a SHA-256 for every file
    estimates.json                     what the cost model says of every stage
    lib/TARGET/groups1.so …            one library per target and number of groups on a device
    weights/shared.safetensors         weights that every device holds whole
    weights/group0.safetensors …       canonical (unpacked) weights, or slices of them, of one group

Reading needs NumPy and safetensors alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from decnn_tvm.errors import CompileError, PackageError
from decnn_tvm.manifest import MANIFEST, Manifest, TargetLibraries
from decnn_tvm.plan import ONE_PROGRAM, Indices, Plan

ESTIMATES = "estimates.json"
"""Cycles of each stage by the cost model, by target and number of groups on a device."""
VERSIONED = ("decnn-tvm", "apache-tvm", "apache-tvm-ffi")

Array = npt.NDArray[Any]


def versions() -> dict[str, str]:
    """Return the installed versions that a package depends on."""
    return {name: metadata.version(name) for name in VERSIONED}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Package:
    """A package on disk.

    Its manifest is read once: files that are written there later are not of this package any more.

    Parameters
    ----------
    path : Path
        The folder.

    Attributes
    ----------
    digest : str
        SHA-256 of the manifest, in hexadecimal: which package this is.

    Raises
    ------
    PackageError
        The folder, its manifest or a file named there is missing or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise PackageError(
                f"{self.path}: no {MANIFEST} there, so no decnn-tvm package. "
                "Pass a folder that `decnn compile` wrote."
            )
        try:
            self._manifest = manifest.read_bytes()
            data = json.loads(self._manifest)
        except (ValueError, OSError, RecursionError) as error:
            raise PackageError(
                f"{manifest}: unreadable ({error}). Compile the package again."
            ) from error
        self.manifest = Manifest.from_json(data)
        self.digest = hashlib.sha256(self._manifest).hexdigest()

    @property
    def plan(self) -> Plan:
        """The plan in the manifest."""
        return self.manifest.plan

    def shares_for(self, workers: int) -> tuple[int, ...] | None:
        """Return how many groups each of so many workers is meant to have; None: evenly many."""
        shares = self.manifest.shares
        return shares if shares is not None and len(shares) == workers else None

    def file(self, name: str) -> Path:
        """Return the path of a file of this package; raise where it has no such file."""
        path = (self.path / name).resolve()
        if name not in self.manifest.files or not path.is_relative_to(self.path.resolve()):
            raise PackageError(f"{self.path}: {name!r} is no file of this package.")
        return path

    def verify(self, names: Sequence[str] | None = None) -> None:
        """Check the hashes of the files called `names` (all by default)."""
        for name in self.manifest.files if names is None else names:
            path = self.file(name)
            if not path.is_file():
                raise PackageError(f"{self.path}: {name} is missing. Copy or compile it again.")
            if sha256(path) != self.manifest.files[name]:
                raise PackageError(
                    f"{self.path}: {name} is damaged (its SHA-256 differs from the "
                    "manifest's). Copy or compile the package again."
                )

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """Yield a file in pieces of `size` bytes, the last one shorter; an empty file is one piece.

        Raises
        ------
        PackageError
            It is not there any more, or it is not what the manifest says: at the end of it.
        """
        if name == MANIFEST:
            yield from (self._manifest[i : i + size] for i in range(0, len(self._manifest), size))
            return
        digest = hashlib.sha256()
        try:
            with self.file(name).open("rb") as file:
                piece = file.read(size)
                while True:
                    digest.update(piece)
                    yield piece
                    if not (piece := file.read(size)):
                        break
        except OSError as error:
            raise self._changed(f"{name} can't be read ({error})") from error
        if digest.hexdigest() != self.manifest.files[name]:
            raise self._changed(f"{name} is another file now")

    def _changed(self, what: str) -> PackageError:
        return PackageError(
            f"{self.path}: {what}; expected what was there when the package was opened. Compile "
            "into another folder, and deploy the package again."
        )

    def files_for(self, target: str, groups: Indices) -> list[str]:
        """Return the names of the files that a device with `groups` needs."""
        names = [self.library(target, len(groups)), weights_file(None)]
        names += [weights_file(group) for group in groups]
        return [name for name in names if name in self.manifest.files]

    def estimated_cycles(self, target: str, group_count: int) -> dict[str, float]:
        """Return what the cost model says of each stage; empty where the package does not tell.

        It tells of the numbers of groups on a device that it has code for.
        """
        if ESTIMATES not in self.manifest.files:
            return {}
        self.verify([ESTIMATES])
        data = json.loads(self.file(ESTIMATES).read_text())
        counts = data.get(target, {})
        # One program serves every number of groups.
        count = 1 if self.plan.strategy in ONE_PROGRAM else group_count
        return dict(counts.get(str(count), {}))

    def library(self, target: str, group_count: int) -> str:
        """Return the name of the library for `group_count` groups on `target`."""
        if target not in self.manifest.targets:
            raise PackageError(
                f"{self.path}: compiled for {sorted(self.manifest.targets)}, not "
                f"for {target!r}. Compile it for that target too."
            )
        libraries = self.manifest.targets[target].libraries
        if group_count not in libraries:
            raise PackageError(
                f"{self.path}: no library for {group_count} {self.plan.unit} on a "
                f"device (there: {sorted(libraries)}). Compile with these shares."
            )
        return libraries[group_count]


def check_replaceable(path: Path) -> None:
    """Raise `CompileError` where `path` holds something that is no package."""
    if (
        path.exists()
        and not (path / MANIFEST).is_file()
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise CompileError(
            f"{path}: exists and is no package, so it is not replaced. Choose another folder."
        )


def weights_file(group: int | None) -> str:
    """Return the name of the weights file of a group, of the shared weights for None."""
    return f"weights/{'shared' if group is None else f'group{group}'}.safetensors"


def write_weights(path: Path, plan: Plan, weights: Mapping[str, Sequence[Array]]) -> list[str]:
    """Write the weights files; `weights` maps names to one slice per group, or to one alone.

    Returns
    -------
    list of str
        The names of the files written.
    """
    (path / "weights").mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Array]] = {}
    for weight in plan.weights:
        for group, tensor in enumerate(weights[weight.name]):
            name = weights_file(weight.group if weight.combine == "replicate" else group)
            files.setdefault(name, {})[weight.name] = np.ascontiguousarray(tensor)
    for name, tensors in files.items():
        save_file(tensors, path / name)
    return sorted(files)


def write_manifest(
    path: Path,
    plan: Plan,
    targets: dict[str, TargetLibraries],
    names: Sequence[str],
    *,
    workers: int,
    shares: Sequence[int] | None = None,
    worker_names: Sequence[str] = (),
) -> Package:
    """Hash the files called `names`, write the manifest and open the package.

    The rest is as in `decnn_tvm.manifest.Manifest`.
    """
    manifest = Manifest(
        plan=plan,
        targets=targets,
        versions=versions(),
        files={name: sha256(path / name) for name in names},
        workers=workers,
        shares=None if shares is None else tuple(shares),
        worker_names=tuple(worker_names),
    )
    (path / MANIFEST).write_text(json.dumps(manifest.to_json()))
    return Package(path)
