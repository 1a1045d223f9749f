# SPDX-License-Identifier: Apache-2.0
"""What a worker holds of a package in memory: a library with the weights of its groups packed."""

from __future__ import annotations

from decnn_tvm.errors import MemoryShortage
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.library import StageLibrary, empty_pool
from decnn_tvm.runtime.machine import freed_memory_returned, memory, trim
from decnn_tvm.runtime.weights import DeviceWeights


class Share:
    """The channel groups of one deployment on this worker.

    Parameters
    ----------
    limit : int, optional
        Bytes that the whole process may take.

    Attributes
    ----------
    library : StageLibrary, optional
        Runs the stages; None without groups.
    verified : set of str
        Files whose hashes were right.
    """

    def __init__(self, limit: int | None) -> None:
        self.library: StageLibrary | None = None
        self.verified: set[str] = set()
        self._limit = limit
        self._loaded: tuple[str, Indices] | None = None

    def load(self, package: Package, target: str, groups: Indices) -> None:
        """Have the library of these groups with their weights; free another one first.

        Raises
        ------
        PackageError
            A file is missing or damaged.
        MemoryShortage
            They take more than this worker may have.
        """
        if self._loaded == (target, groups):
            return
        with freed_memory_returned():
            self._drop()
            if groups:
                self.library = self._packed(package, target, groups)
        if groups:
            self._check_limit(f"{len(groups)} {package.plan.unit}")
            self._loaded = (target, groups)

    def free(self) -> None:
        """Free everything, and return the memory to the system."""
        with freed_memory_returned():
            self._drop()

    def _drop(self) -> None:
        self.library = self._loaded = None
        empty_pool()

    def _packed(self, package: Package, target: str, groups: Indices) -> StageLibrary:
        names = [n for n in package.files_for(target, groups) if n not in self.verified]
        package.verify(names)
        self.verified.update(names)
        path = package.file(package.library(target, len(groups)))
        try:
            return StageLibrary(path, package.plan, DeviceWeights(package, groups), groups)
        except MemoryError as error:
            share = f"{len(groups)} {package.plan.unit}"
            raise MemoryShortage(f"{share}: {error}.") from error

    def _check_limit(self, share: str) -> None:
        taken = memory().resident
        if self._limit is not None and taken > self._limit:
            self._drop()
            trim()
            raise MemoryShortage(
                f"{share} take {taken / 1e6:.1f} MB with the worker itself; "
                f"its limit is {self._limit / 1e6:.1f} MB."
            )
