# SPDX-License-Identifier: Apache-2.0
"""Run split networks with plain `tvm.compile`, NumPy moving every tensor between the devices.

Shares no code with `decnn_tvm.transfers` and the runtime: a movement puts the whole tensor together
from the shards of its source and cuts it up again for its target. Whatever a device holds at
padding is garbage on purpose, but where the plan says what padding holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from decnn_tvm.plan import PAD, Host, Owned, Partial, Plan, Replicated, Sharded, Strips, Value

Array = npt.NDArray[Any]
GARBAGE = 7.5
HOST = "host"


class Devices:
    """Devices with `assignment` of channel groups; `modules` are keyed by groups on a device."""

    def __init__(
        self,
        plan: Plan,
        modules: Mapping[int, tvm.IRModule],
        assignment: Sequence[Sequence[int]],
    ) -> None:
        self.plan, self.assignment = plan, assignment
        counts = {len(groups) for groups in assignment}
        self.machines = {count: machine(modules[count]) for count in counts}
        slices = modules[min(counts)].attrs["decnn.weights"]
        self.weights = [
            {
                w.name: _joined(w, slices[w.name], groups)
                for w in plan.weights
                if w.group is None or w.group in groups
            }
            for groups in assignment
        ]

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Return the outputs at the coordinator by name."""
        held: dict[str, dict[Any, Array]] = {name: {HOST: x} for name, x in inputs.items()}
        stages = list(self.plan.stages)
        movements = list(self.plan.movements)
        while stages or movements:
            ready = [m for m in movements if m.source in held]
            for movement in ready:
                source, target = self.plan.value(movement.source), self.plan.value(movement.target)
                held[movement.target] = self._scatter(target, self._gather(source, held))
                movements.remove(movement)
            if stages and all(name in held for name in stages[0].inputs):
                self._compute(stages.pop(0), held)
            else:
                assert ready, f"nothing can go on: {stages[:1]} {movements}"
        return {name: held[name][HOST] for name in self.plan.outputs}

    def _compute(self, stage: Any, held: dict[str, dict[Any, Array]]) -> None:
        for name in stage.outputs:
            held[name] = {}
        for device, groups in enumerate(self.assignment):
            if stage.group is not None and stage.group not in groups:
                continue
            args = [held[name][device] for name in stage.inputs]
            args += [self.weights[device][name] for name in stage.weights]
            for name, arg in zip([*stage.inputs], args, strict=False):
                expected = self.plan.value(name).local_shape(len(groups))
                assert arg.shape == expected, (name, arg.shape, expected)
            result = self.machines[len(groups)][stage.function](*map(tvm.runtime.tensor, args))
            tensors = [result] if hasattr(result, "numpy") else list(result)
            for name, tensor in zip(stage.outputs, tensors, strict=True):
                held[name][device] = tensor.numpy()

    def _gather(self, value: Value, held: Mapping[str, Mapping[Any, Array]]) -> Array:
        placement, parts = value.placement, held[value.name]
        if isinstance(placement, Host):
            return parts[HOST]
        if isinstance(placement, Replicated):
            for part in parts.values():
                np.testing.assert_array_equal(part, parts[0])
            return parts[0]
        if isinstance(placement, Owned):
            return parts[self._owner(placement)]
        if isinstance(placement, Partial):
            return sum(parts.values(), np.zeros(value.shape, value.dtype))
        # float64 holds every wire type exactly, and "not held" too.
        whole = np.full(value.shape, np.nan)
        for device, groups in enumerate(self.assignment):
            rows = _held(placement, groups, value.shape[placement.axis])
            for position, index in enumerate(rows):
                if index != PAD:
                    where = (slice(None),) * placement.axis
                    whole[(*where, index)] = parts[device][(*where, position)]
        assert np.isfinite(whole).all(), f"{value.name}: nobody holds some of it"
        return whole.astype(value.dtype)

    def _scatter(self, value: Value, whole: Array) -> dict[Any, Array]:
        placement = value.placement
        whole = whole.astype(value.dtype)
        if isinstance(placement, Host):
            return {HOST: whole}
        if isinstance(placement, Owned):
            return {self._owner(placement): whole}
        result: dict[Any, Array] = {}
        for device, groups in enumerate(self.assignment):
            result[device] = whole
            if isinstance(placement, Sharded | Strips):
                indices = np.array(_held(placement, groups, value.shape[placement.axis]))
                part = whole.take(np.maximum(indices, 0), placement.axis)
                at_padding = (slice(None),) * placement.axis + (indices == PAD,)
                part[at_padding] = _padding(placement, part.dtype)
                result[device] = np.ascontiguousarray(part)
        return result

    def _owner(self, placement: Owned) -> int:
        (owner,) = (d for d, groups in enumerate(self.assignment) if placement.group in groups)
        return owner


def machine(module: tvm.IRModule) -> relax.VirtualMachine:
    """Compile stages as any user would."""
    bare = module.without_attr("decnn.weights").without_attr("decnn.plan")
    target = tvm.target.Target({"kind": "llvm", "num-cores": 1, "opt-level": 1})
    return relax.VirtualMachine(tvm.compile(bare, target=target), tvm.cpu())


def _padding(placement: Sharded | Strips, dtype: np.dtype[Any]) -> float:
    kind = placement.padding if isinstance(placement, Strips) else "any"
    if kind == "lowest":
        return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)
    return 0.0 if kind == "zero" else GARBAGE


def _held(placement: Sharded | Strips, groups: Sequence[int], extent: int) -> list[int]:
    if isinstance(placement, Strips):
        first, count = min(groups), len(groups)
        assert sorted(groups) == list(range(first, first + count))
        rows = np.arange(count * placement.step + placement.extra) + placement.first
        rows += first * placement.step
        return np.where((rows < 0) | (rows >= extent), PAD, rows).tolist()
    return [index for group in sorted(groups) for index in placement.groups[group]]


def _joined(weight: Any, slices: Sequence[Any], groups: Sequence[int]) -> Array:
    if weight.combine == "replicate":
        return np.asarray(slices[0].numpy())
    parts = [slices[group].numpy() for group in sorted(groups)]
    if weight.combine == "concat":
        return np.concatenate(parts, weight.axis)
    return np.sum(parts, axis=0, dtype=parts[0].dtype)
