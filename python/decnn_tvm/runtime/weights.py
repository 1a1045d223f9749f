# SPDX-License-Identifier: Apache-2.0
"""The weights of a device, read when they are asked for.

Nothing is kept: a worker reads what one stage needs, packs it and lets it go, so that the
originals of all weights are never in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from safetensors import SafetensorError, safe_open

from decnn_tvm.errors import PackageError
from decnn_tvm.package import Package, weights_file
from decnn_tvm.plan import Indices, Weight
from decnn_tvm.runtime.tensors import Array, aligned_empty


class DeviceWeights(Mapping[str, Array]):
    """Canonical weights of a device, the slices of its groups joined.

    Parameters
    ----------
    package : Package
        Where they are.
    groups : tuple of int
        The device's channel groups.

    Raises
    ------
    PackageError
        On reading: a weight is missing, unreadable, or not what the plan says.
    """

    def __init__(self, package: Package, groups: Indices) -> None:
        self._package, self._groups = package, tuple(sorted(groups))
        self._weights = {weight.name: weight for weight in package.plan.weights}

    def __getitem__(self, name: str) -> Array:
        """Read a weight: a new array on a 64-byte boundary."""
        weight = self._weights[name]
        joined = aligned_empty(weight.local_shape(len(self._groups)), weight.dtype)
        if weight.combine == "replicate":
            joined[...] = self._read(weight, weights_file(weight.group))
        elif weight.combine == "concat":
            self._concatenate(weight, joined)
        else:
            joined.fill(0)
            for group in self._groups:
                joined += self._read(weight, weights_file(group))
        return joined

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def _concatenate(self, weight: Weight, joined: Array) -> None:
        extent = weight.shape[weight.axis]
        for index, group in enumerate(self._groups):
            place: list[slice] = [slice(None)] * joined.ndim
            place[weight.axis] = slice(index * extent, (index + 1) * extent)
            joined[tuple(place)] = self._read(weight, weights_file(group))

    def _read(self, weight: Weight, file: str) -> Array:
        # Opened for one tensor: the pages of a file that stays open count as this process's.
        try:
            with safe_open(self._package.file(file), framework="numpy") as tensors:
                if weight.name not in tensors.keys():
                    raise PackageError(
                        f"{file}: weight {weight.name!r} is missing. Compile the package again."
                    )
                array: Array = tensors.get_tensor(weight.name)
        except (SafetensorError, OSError) as error:
            raise PackageError(
                f"{self._package.path}: {file} is unreadable ({error}). "
                "Copy or compile the package again."
            ) from error
        self._check(weight, file, array.shape, str(array.dtype))
        return array

    @staticmethod
    def _check(weight: Weight, file: str, shape: Sequence[int], dtype: str) -> None:
        if (tuple(shape), dtype) != (weight.shape, weight.dtype):
            raise PackageError(
                f"{file}: weight {weight.name!r} is {dtype}{tuple(shape)}; the plan says "
                f"{weight.dtype}{weight.shape}. Compile the package again."
            )
