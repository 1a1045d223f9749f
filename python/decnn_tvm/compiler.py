# SPDX-License-Identifier: Apache-2.0
"""From a network to a package: prepare, spread, split, build, write."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import tvm

from decnn_tvm import schedules
from decnn_tvm.calibration import Sample, calibrate
from decnn_tvm.channel_histogram import Method
from decnn_tvm.errors import CompileError
from decnn_tvm.group_counts import group_counts
from decnn_tvm.linking import link_shared_library
from decnn_tvm.lowering import build_stages
from decnn_tvm.network import Network
from decnn_tvm.package import (
    Package,
    TargetLibraries,
    check_replaceable,
    write_manifest,
    write_weights,
)
from decnn_tvm.passes.normalize_images import NormalizeImages
from decnn_tvm.passes.split_rows import SplitRows
from decnn_tvm.passes.split_stages import SplitStages, plan_of
from decnn_tvm.passes.weights import unique_name
from decnn_tvm.passes.wire_encoding import WireLimits
from decnn_tvm.pipeline import spreading_passes
from decnn_tvm.targets import CpuTarget, resolve_target

if TYPE_CHECKING:
    from decnn_tvm.tuning.records import Records

logger = logging.getLogger(__name__)

SHIPPED_RECORDS = Path(schedules.__file__).parent / "records"
"""Folders of tuning records, each named after the processor (``mcpu``) that was measured."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called before each step of a long work with its name, its index and the number of steps."""

TargetLike: TypeAlias = "str | Mapping[str, Any]"


def compile_network(
    network: Network,
    out: Path | str,
    *,
    workers: int | None = None,
    shares: Sequence[int] | None = None,
    all_shares: bool | None = None,
    targets: Sequence[TargetLike] = ("host",),
    cores: int | None = None,
    wire: str = "float32",
    calibration: Iterable[Sample] | None = None,
    calibration_method: Method = "headroom",
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    row_tiles: int = 1,
    winograd: bool | None = None,
    records: Path | str | None = None,
    shipped_records: bool = True,
    progress: Progress | None = None,
) -> Package:
    """Compile `network` for several devices and write the package to the folder `out`.

    Parameters
    ----------
    network : Network
        Dense or decoupled. A dense network is split exactly into as many shares as are asked for.
    out : Path or str
        The folder; an older package there is replaced.
    workers : int, optional
        Number of devices, with shares as even as possible. By default the length of `shares`, or
        the number of channel groups of a decoupled network.
    shares : sequence of int, optional
        Channel groups per device, such as ``(2, 1, 1)`` where the first one is twice as fast.
    all_shares : bool, optional
        Hold a library for every number of groups, so that devices can be added or lost while
        samples stream. By default so for a decoupled network, whose libraries are small; a dense
        one that is to survive the loss of a device needs it too.
    targets : sequence of str or dict
        What to compile for; see `decnn_tvm.targets.resolve_target`.
    cores : int, optional
        Cores of a device that kernels are spread over; by default what the target says. A worker
        uses as many threads as it is started with.
    wire : {"float32", "float16", "int8"}
        Element type of exchanged activations; int8 stands for uint8 where none is negative.
    calibration : iterable of arrays, or of dicts of arrays, optional
        Inputs like those to come, for int8: the scales of its channels are found on them. Without,
        scales are computed for every message, which takes longer and sends more.
    calibration_method : {"headroom", "max", "percentile", "mse"}
        How a channel's scale is chosen; see `decnn_tvm.channel_histogram`.
    image_mean, image_std : sequence of float, optional
        With these the network's one input becomes pixels as uint8, and its first stage computes
        ``(pixel / 255 - mean) / std`` for each channel.
    row_tiles : int
        Bands of rows in which the layers beside an exchange run, so that what is sent leaves while
        the rest is computed. It shortens the way of one sample; with several under way, devices
        have other work meanwhile.
    winograd : bool, optional
        Compute wide 3 x 3 convolutions by Winograd's method where it is faster. Their weights take
        4 times the memory then. By default only where the network is not decoupled: one that is
        was made for little memory.
    records : Path or str, optional
        Folder with what `decnn_tvm.tune` measured. Layers that it knows for a target run as was
        measured to be fastest, the others by the analytic model.
    shipped_records : bool
        Use the measurements that come with the library, where it has some for a target, for layers
        that `records` does not know.
    progress : callable, optional
        Told of every step.

    Raises
    ------
    PartitionError
        The network can't be split so.
    CompileError
        A target or an operator has no code, `out` holds something that is no package, or the input
        is no image.
    InputError
        Calibration without samples, or with some that do not suit the network.
    RecordsError
        `records` holds none, or damaged ones.
    """
    path = Path(out)
    check_replaceable(path)
    network = with_image_input(network, image_mean, image_std)
    limits = _calibrator(wire, calibration, calibration_method)
    devices, _, counts = group_counts(network, workers, shares, all_shares)
    resolved = _by_folder([resolve_target(target, cores=cores) for target in targets])
    own = [] if records is None else [_read_records(records)]
    measured = {
        name: own + (_shipped(target) if shipped_records else [])
        for name, target in resolved.items()
    }
    report = _Reporter(progress, 2 + len(resolved) * len(counts))
    report.step("placement" if limits is None else "placement and calibration")
    split = split_network(network, workers, shares, all_shares, wire, limits, row_tiles)
    winograd = uses_winograd(network, winograd)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / "package"
        _write(draft, split, resolved, measured, winograd, report, devices)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    return Package(path)


def split_network(
    network: Network,
    workers: int | None,
    shares: Sequence[int] | None,
    all_shares: bool | None,
    wire: str,
    limits: Callable[[tvm.IRModule], WireLimits] | None = None,
    row_tiles: int = 1,
) -> dict[int, tvm.IRModule]:
    """Return the stages for each number of channel groups on a device.

    The parameters are those of `compile_network`; `limits` gives the range of every exchanged
    channel of a spread network.

    Raises
    ------
    PartitionError
        The network can't be split so.
    """
    _, groups, counts = group_counts(network, workers, shares, all_shares)
    spread = tvm.transform.Sequential(spreading_passes(groups))(network.module)
    found = limits(spread) if limits is not None else None
    if row_tiles != 1:
        spread = SplitRows(bands=row_tiles)(spread)  # type: ignore[operator]
    return {count: _split(spread, count, wire, network.name, found) for count in counts}


def uses_winograd(network: Network, winograd: bool | None) -> bool:
    """Return whether Winograd's method may be used, by default on what is not decoupled."""
    return network.groups is None if winograd is None else winograd


class _Reporter:
    """Counts the steps of a work for who asked to be told."""

    def __init__(self, progress: Progress | None, steps: int) -> None:
        self.progress, self.steps, self.done = progress, steps, 0

    def step(self, name: str) -> None:
        if self.progress is not None:
            self.progress(name, self.done, self.steps)
        self.done += 1


def _write(
    draft: Path,
    split: Mapping[int, tvm.IRModule],
    targets: Mapping[str, CpuTarget],
    measured: Mapping[str, Sequence[Records]],
    winograd: bool,
    report: _Reporter,
    workers: int,
) -> None:
    """Write a package from the stages for each number of groups on a device."""
    first = next(iter(split.values()))
    plan = plan_of(first)
    names = write_weights(draft, plan, _slices(first))
    libraries = {}
    for folder, target in targets.items():
        paths = {count: f"lib/{folder}/groups{count}.so" for count in split}
        for count, module in split.items():
            report.step(f"{count} of {plan.groups} groups for {target.name}")
            stages = build_stages(
                module.without_attr("decnn.weights").without_attr("decnn.plan"),
                target.target,
                winograd=winograd,
                records=measured[folder],
            )
            path = draft / paths[count]
            path.parent.mkdir(parents=True, exist_ok=True)
            link_shared_library(stages, path, target.machine)
        libraries[folder] = _target_libraries(target, paths)
        names += paths.values()
    report.step("package")
    write_manifest(draft, plan, libraries, names, workers=workers)


def _read_records(folder: Path | str) -> Records:
    from decnn_tvm.tuning.records import Records  # MetaSchedule, which few compilations need

    return Records(folder)


def _shipped(target: CpuTarget) -> list[Records]:
    """Return the records that come with the library for the processor of `target`, if any."""
    folder = SHIPPED_RECORDS / str(target.target.attrs.get("mcpu") or "none")
    if not folder.is_dir():
        return []
    from decnn_tvm.tuning.shipped_records import read_shipped

    return [read_shipped(folder)]


def with_image_input(
    network: Network, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Network:
    """Return `network`, taking pixels of uint8 if mean and deviation are given."""
    if mean is None and std is None:
        return network
    if mean is None or std is None:
        raise CompileError("image_mean and image_std: one is missing. Give both, or neither.")
    normalize = NormalizeImages(mean=mean, std=std)
    return Network(network.name, normalize(network.module))  # type: ignore[operator]


def _calibrator(
    wire: str, samples: Iterable[Sample] | None, method: Method
) -> Callable[[tvm.IRModule], WireLimits] | None:
    """Return what finds the range of every exchanged channel; None without calibration."""
    if wire == "int8" and samples is not None:
        return partial(calibrate, samples=samples, method=method)
    if samples is not None:
        raise CompileError(
            f"wire {wire!r} needs no calibration. Leave it out, or choose the wire 'int8'."
        )
    return None


def _split(
    spread: tvm.IRModule, count: int, wire: str, model: str, limits: WireLimits | None
) -> tvm.IRModule:
    split = SplitStages(groups_per_device=count, wire=wire, model=model, limits=limits)
    return split(spread)  # type: ignore[operator]


def _slices(split: tvm.IRModule) -> dict[str, list[Any]]:
    weights = split.attrs["decnn.weights"]
    return {str(name): [tensor.numpy() for tensor in pieces] for name, pieces in weights.items()}


def _target_libraries(target: CpuTarget, paths: dict[int, str]) -> TargetLibraries:
    return TargetLibraries(
        target=json.loads(json.dumps(dict(target.target.export()), default=str)),
        machine=target.machine,
        features=target.features,
        libraries=paths,
    )


def _by_folder(targets: Sequence[CpuTarget]) -> dict[str, CpuTarget]:
    """Return the targets, each once, by the name of their folder in the package."""
    folders: dict[str, CpuTarget] = {}
    for name, target in {target.name: target for target in targets}.items():
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
        folders[unique_name(slug, folders)] = target
    return folders
