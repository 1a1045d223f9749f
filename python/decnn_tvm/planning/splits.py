# SPDX-License-Identifier: Apache-2.0
"""Networks split in the ways that are asked for, and what every stage costs, uncompiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm

from decnn_tvm.compiler import split_network, uses_winograd
from decnn_tvm.network import Network
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.pipeline import preparation_passes
from decnn_tvm.plan import Indices, Movement, Plan, Strategy
from decnn_tvm.plan_placements import narrow_axis
from decnn_tvm.planning.layer_costs import LayerCost, layer_costs
from decnn_tvm.targets import CpuTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A network split for some shares.

    Attributes
    ----------
    plan : Plan
        Its plan, with float32 on the wire.
    costs : mapping of (str, int) to mapping of str to tuple of LayerCost
        By target and number of groups on a device: the kernels of each stage.
    """

    plan: Plan
    costs: Mapping[tuple[str, int], Mapping[str, tuple[LayerCost, ...]]]

    def kernels(self, target: CpuTarget, groups: Indices) -> Mapping[str, tuple[LayerCost, ...]]:
        """Return the kernels of each stage that a device with `groups` runs."""
        count = len(groups) if (target.name, len(groups)) in self.costs else 1
        own = self.costs[target.name, count]
        stages = [stage for stage in self.plan.stages if stage.runs_on(groups)]
        return {stage.function: own[stage.function] for stage in stages}

    def cycles(self, target: CpuTarget, count: int) -> dict[str, float]:
        """Return the cycles of each stage on a device with `count` groups."""
        found = self.costs.get((target.name, count)) or self.costs[target.name, 1]
        return {name: sum(cost.cycles for cost in costs) for name, costs in found.items()}


class Splitter:
    """Splits networks, each way once.

    Parameters
    ----------
    targets : sequence of CpuTarget
        What the devices' code is made for.
    winograd : bool, optional
        As for `decnn_tvm.compile`.
    """

    def __init__(self, targets: Sequence[CpuTarget], winograd: bool | None = None) -> None:
        self._targets = {target.name: target for target in targets}
        self._winograd = winograd
        self._prepared: dict[int, Network] = {}
        self._splits: dict[tuple[int, Strategy, int, tuple[int, ...]], Split] = {}
        self._kept: list[Network] = []

    def split(self, network: Network, strategy: Strategy, shares: Sequence[int]) -> Split:
        """Split a network for devices with these shares.

        Raises
        ------
        PartitionError
            It can't be split so.
        """
        whole = strategy in ("single", "replicas")
        counts = (1,) if whole or strategy == "pipeline" else tuple(sorted({*shares}))
        groups = 1 if whole else sum(shares)
        key = (id(network), "single" if whole else strategy, groups, counts)
        if key not in self._splits:
            self._splits[key] = self._make(network, "single" if whole else strategy, shares)
        split = self._splits[key]
        if strategy == "replicas":
            # Every replica runs the one program; turns are the runtime's matter.
            plan = dataclasses.replace(split.plan, strategy="replicas", groups=sum(shares))
            return Split(plan=plan, costs=split.costs)
        return split

    def _make(self, network: Network, strategy: Strategy, shares: Sequence[int]) -> Split:
        prepared = self._prepare(network)
        given = None if strategy == "single" else tuple(shares)
        modules = split_network(prepared, None, given, False, "float32", strategy=strategy)
        plan = plan_of(next(iter(modules.values())))
        winograd = uses_winograd(network, self._winograd)
        costs = {
            (name, count): {
                stage.function: layer_costs(
                    module[stage.function], target.target, winograd=winograd
                )
                for stage in plan.stages
            }
            for name, target in self._targets.items()
            for count, module in modules.items()
        }
        return Split(plan=plan, costs=costs)

    def _prepare(self, network: Network) -> Network:
        """Return the network with what does not depend on the split done."""
        if id(network) not in self._prepared:
            module = tvm.transform.Sequential(preparation_passes())(network.module)
            self._prepared[id(network)] = dataclasses.replace(network, module=module)
            self._kept.append(network)  # so that no other network gets its id
        return self._prepared[id(network)]


def with_wire(plan: Plan, wire: str) -> Plan:
    """Return a float32 plan as it is with another type on the wire, for reckoning alone.

    Which movements that concerns is the compiler's rule (`StageGraph.encoding`): those that
    `narrow_axis` allows, and those that send on what came narrow. A stage then gives the value to
    send beside the one that others still read. Int8, which stands for uint8 too, is reckoned as
    with calibration. Left out is what differs without: scales beside each value, and float32 where
    a scale would serve fewer than `LEAST_ELEMENTS` elements or, for signed strips, where the
    padding of the target is ``"lowest"``.
    """
    if wire == "float32":
        return plan
    brought = {movement.target: movement for movement in plan.movements}
    narrow = {m for m in plan.movements if _travels_narrow(plan, m, brought)}
    targets = {movement.target for movement in narrow}
    sent = {m.source: f"{m.source}.{wire}" for m in narrow if m.source not in targets}
    movements = tuple(
        dataclasses.replace(m, source=sent.get(m.source, m.source), wire=wire) if m in narrow else m
        for m in plan.movements
    )
    read = {movement.source for movement in movements}
    read |= {name for stage in plan.stages for name in stage.inputs}
    # By source: the names of what a stage gives in its place.
    given = {name: [n for n in (name, copy) if n in read] for name, copy in sent.items()}
    stages = tuple(
        dataclasses.replace(
            stage, outputs=tuple(n for name in stage.outputs for n in given.get(name, [name]))
        )
        for stage in plan.stages
    )
    narrowed = targets | {*sent.values()}
    values = tuple(
        dataclasses.replace(value, name=name, dtype=wire if name in narrowed else value.dtype)
        for value in plan.values
        for name in given.get(value.name, [value.name])
    )
    return dataclasses.replace(plan, movements=movements, stages=stages, values=values)


def _travels_narrow(plan: Plan, movement: Movement, brought: Mapping[str, Movement]) -> bool:
    """Tell whether a movement is narrowed; `brought` has those that bring each value."""
    before = brought.get(movement.source)
    if before is not None:
        return _travels_narrow(plan, before, brought)
    source, target = plan.value(movement.source), plan.value(movement.target)
    axis = narrow_axis(source.placement, target.placement, len(source.shape))
    return source.dtype == "float32" and axis is not None
