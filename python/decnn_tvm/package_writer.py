# SPDX-License-Identifier: Apache-2.0
"""From stages to a package: build, link, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import tvm

from decnn_tvm.group_counts import GroupCounts
from decnn_tvm.linking import link_shared_library
from decnn_tvm.lowering import build_stages
from decnn_tvm.manifest import TargetLibraries
from decnn_tvm.package import ESTIMATES, write_manifest, write_weights
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import ONE_PROGRAM
from decnn_tvm.planning.layer_costs import layer_costs
from decnn_tvm.targets import CpuTarget

if TYPE_CHECKING:
    from tvm.s_tir.dlight.base import ScheduleRule

    from decnn_tvm.tuning.records import Records

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called before each step of a long work with its name, its index and the number of steps."""


class Reporter:
    """Counts the steps of a work for who asked to be told."""

    def __init__(self, progress: Progress | None, steps: int) -> None:
        self.progress, self.steps, self.done = progress, steps, 0

    def step(self, name: str) -> None:
        """Say that a step begins."""
        if self.progress is not None:
            self.progress(name, self.done, self.steps)
        self.done += 1


def write_package(
    draft: Path,
    split: Mapping[int, tvm.IRModule],
    targets: Mapping[str, CpuTarget],
    measured: Mapping[str, Sequence[Records]],
    winograd: bool,
    report: Reporter,
    counts: GroupCounts,
    schedules: Sequence[ScheduleRule] = (),
    worker_names: Sequence[str] = (),
) -> None:
    """Write a package from the stages for each number of groups on a device.

    Parameters
    ----------
    draft : Path
        The folder.
    split : mapping of int to IRModule
        The stages, by number of groups on a device.
    targets : mapping of str to CpuTarget
        What to compile for, by the name of its folder in the package.
    measured : mapping of str to sequence of Records
        Measured schedules, by the same.
    winograd : bool
        Whether Winograd's method may be used.
    report : Reporter
        Told of every step.
    counts : GroupCounts
        What the package is for.
    schedules : sequence of tvm.s_tir.dlight.base.ScheduleRule
        The user's own rules, asked before all others.
    worker_names : sequence of str
        Whom the shares are for, by the names in a cluster file.
    """
    first = next(iter(split.values()))
    plan = plan_of(first)
    names = write_weights(draft, plan, _slices(first))
    libraries = {}
    for folder, target in targets.items():
        one = plan.strategy in ONE_PROGRAM
        paths = {k: f"lib/{folder}/{'any' if one else f'groups{k}'}.so" for k in counts.served}
        for count, module in split.items():
            share = "" if one else f"{count} of {plan.groups} {plan.unit} "
            report.step(f"{share}for {target.name}")
            stages = build_stages(
                module.without_attr("decnn.weights").without_attr("decnn.plan"),
                target.target,
                winograd=winograd,
                records=measured[folder],
                schedules=schedules,
            )
            path = draft / paths[count]
            path.parent.mkdir(parents=True, exist_ok=True)
            link_shared_library(stages, path, target.machine)
        libraries[folder] = _target_libraries(target, paths)
        names += {*paths.values()}
    report.step("package")
    names.append(_write_estimates(draft, split, targets, winograd))
    write_manifest(
        draft,
        plan,
        libraries,
        names,
        workers=counts.devices,
        shares=counts.shares,
        worker_names=worker_names,
    )


def _write_estimates(
    draft: Path,
    split: Mapping[int, tvm.IRModule],
    targets: Mapping[str, CpuTarget],
    winograd: bool,
) -> str:
    """Write what the cost model says of every stage; return the name of the file."""

    def cycles(module: tvm.IRModule, target: CpuTarget) -> dict[str, float]:
        return {
            stage.function: sum(
                cost.cycles
                for cost in layer_costs(module[stage.function], target.target, winograd=winograd)
            )
            for stage in plan_of(module).stages
        }

    estimates = {
        folder: {str(count): cycles(module, target) for count, module in split.items()}
        for folder, target in targets.items()
    }
    (draft / ESTIMATES).write_text(json.dumps(estimates))
    return ESTIMATES


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
