# SPDX-License-Identifier: Apache-2.0
"""From a network to a package: prepare, spread, split, build, write."""

from __future__ import annotations

import itertools
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
from decnn_tvm.custom_passes import apply_passes
from decnn_tvm.errors import CompileError, PartitionError
from decnn_tvm.group_counts import group_counts
from decnn_tvm.network import Network
from decnn_tvm.package import Package, check_replaceable
from decnn_tvm.package_writer import Progress, Reporter, write_package
from decnn_tvm.passes.normalize_images import NormalizeImages
from decnn_tvm.passes.split_rows import SplitRows
from decnn_tvm.passes.split_stages import SplitStages
from decnn_tvm.passes.weights import unique_name
from decnn_tvm.passes.wire_encoding import WireLimits
from decnn_tvm.pipeline import spreading_passes
from decnn_tvm.plan import Strategy
from decnn_tvm.targets import CpuTarget, resolve_target

if TYPE_CHECKING:
    from tvm.s_tir.dlight.base import ScheduleRule

    from decnn_tvm.tuning.records import Records

logger = logging.getLogger(__name__)

SHIPPED_RECORDS = Path(schedules.__file__).parent / "records"
"""Folders of tuning records, each named after the processor (``mcpu``) that was measured."""

TargetLike: TypeAlias = "str | Mapping[str, Any]"


def compile_network(
    network: Network,
    out: Path | str,
    *,
    strategy: Strategy = "channels",
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
    passes: Sequence[tvm.transform.Pass] = (),
    schedules: Sequence[ScheduleRule] = (),
    worker_names: Sequence[str] = (),
    progress: Progress | None = None,
) -> Package:
    """Compile `network` for several devices and write the package to the folder `out`.

    Parameters
    ----------
    network : Network
        Dense or decoupled. A dense network is split exactly into as many shares as are asked for.
    out : Path or str
        The folder; an older package there is replaced.
    strategy : {"channels", "rows", "pipeline", "replicas", "single"}
        How devices work together: each computes some channels of every layer (exchanging what a
        dense layer needs, or what the shuffles of a decoupled network mix), some rows of every
        feature map (exchanging halos), some of the layers, or whole samples of its own; or there is
        but one. All compute the same.
    workers : int, optional
        Number of devices, with shares as even as possible. By default the length of `shares`, or
        the number of channel groups of a decoupled network.
    shares : sequence of int, optional
        Groups per device, such as ``(2, 1, 1)`` where the first one is twice as fast: channel
        groups, strips of rows, stages of a pipeline, or turns of a replica. The package remembers
        them: so many workers are dealt these, unless told otherwise.
    all_shares : bool, optional
        Hold a library for every number of groups, so that devices can be added or lost while
        samples stream. By default so for a decoupled network, whose libraries are small; a dense
        one that is to survive the loss of a device needs it too, and so do strips of rows. A
        pipeline and replicas have one library for all shares.
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
        have other work meanwhile. For a split by channels.
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
    passes : sequence of tvm.transform.Pass
        Your own passes over the whole network, batch norms folded, before it is spread over
        devices. They must keep its inputs and outputs.
    schedules : sequence of tvm.s_tir.dlight.base.ScheduleRule
        Your own rules for kernels; the first that takes a kernel wins, before all records.
    worker_names : sequence of str
        What a cluster file calls the workers that `shares` are for; ``decnn run --cluster`` then
        takes these.
    progress : callable, optional
        Told of every step.

    Raises
    ------
    PartitionError
        The network can't be split so.
    CompileError
        A target or an operator has no code, `out` holds something that is no package, the input is
        no image, or one of `passes` or `schedules` fails.
    InputError
        Calibration without samples, or with some that do not suit the network.
    RecordsError
        `records` holds none, or damaged ones.
    """
    path = Path(out)
    check_replaceable(path)
    network = apply_passes(with_image_input(network, image_mean, image_std), passes)
    limits = _calibrator(wire, calibration, calibration_method)
    counts = group_counts(network, workers, shares, all_shares, strategy)
    if worker_names and len(worker_names) != counts.devices:
        raise PartitionError(
            f"worker_names {list(worker_names)}: expected {counts.devices}, one for each worker. "
            "Leave them out, or name every worker."
        )
    resolved = _by_folder([resolve_target(target, cores=cores) for target in targets])
    own = [] if records is None else [_read_records(records)]
    measured = {
        name: own + (_shipped(target) if shipped_records else [])
        for name, target in resolved.items()
    }
    report = Reporter(progress, 2 + len(resolved) * len(counts.compiled))
    report.step("placement" if limits is None else "placement and calibration")
    split = split_network(
        network, workers, shares, all_shares, wire, limits, row_tiles, strategy=strategy
    )
    winograd = uses_winograd(network, winograd)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / "package"
        write_package(
            draft, split, resolved, measured, winograd, report, counts, schedules, worker_names
        )
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    for records_given, target in itertools.product(own, resolved.values()):
        records_given.warn_if_unused(target.target)
    return Package(path)


def split_network(
    network: Network,
    workers: int | None,
    shares: Sequence[int] | None,
    all_shares: bool | None,
    wire: str,
    limits: Callable[[tvm.IRModule], WireLimits] | None = None,
    row_tiles: int = 1,
    *,
    strategy: Strategy = "channels",
) -> dict[int, tvm.IRModule]:
    """Return the stages for each number of groups on a device.

    The parameters are those of `compile_network`; `limits` gives the range of every exchanged
    channel of a spread network.

    Raises
    ------
    PartitionError
        The network can't be split so.
    """
    counts = group_counts(network, workers, shares, all_shares, strategy)
    if row_tiles != 1 and strategy != "channels":
        raise PartitionError(
            f"row_tiles={row_tiles} is for a split by channels, not by {strategy!r}. Leave it out."
        )
    spread = tvm.transform.Sequential(spreading_passes(counts.groups, strategy))(network.module)
    found = limits(spread) if limits is not None else None
    if row_tiles != 1:
        spread = SplitRows(bands=row_tiles)(spread)  # type: ignore[operator]
    return {count: _split(spread, count, wire, network.name, found) for count in counts.compiled}


def uses_winograd(network: Network, winograd: bool | None) -> bool:
    """Return whether Winograd's method may be used, by default on what is not decoupled."""
    return network.groups is None if winograd is None else winograd


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


def _by_folder(targets: Sequence[CpuTarget]) -> dict[str, CpuTarget]:
    """Return the targets, each once, by the name of their folder in the package."""
    folders: dict[str, CpuTarget] = {}
    for name, target in {target.name: target for target in targets}.items():
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
        folders[unique_name(slug, folders)] = target
    return folders
