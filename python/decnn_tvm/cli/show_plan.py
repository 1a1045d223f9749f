# SPDX-License-Identifier: Apache-2.0
"""What moves in a package, as JSON data and as a table: ``decnn compile`` and ``decnn inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decnn_tvm.assignment import assign_groups, owners_of_sample
from decnn_tvm.cli.tables import print_table
from decnn_tvm.plan import Movement, Plan, Value
from decnn_tvm.transfers import payload_bytes, transfers

if TYPE_CHECKING:
    from decnn_tvm.package import Package


def summarize(package: Package) -> dict[str, Any]:
    """Return what a package holds, as JSON data."""
    plan = package.plan
    return {
        "package": str(package.path),
        "model": plan.model,
        "strategy": plan.strategy,
        "groups": plan.groups,
        "decoupled": plan.decoupled,
        "shares": list(package.manifest.shares or ()),
        "worker_names": list(package.manifest.worker_names),
        "inputs": [_tensor(plan.value(name)) for name in plan.inputs],
        "outputs": [_tensor(plan.value(name)) for name in plan.outputs],
        "stages": [stage.function for stage in plan.stages],
        "movements": [
            {
                "source": m.source,
                "target": m.target,
                "kind": m.kind,
                "wire": m.wire,
                "bytes": moved_bytes(plan, m),
            }
            for m in plan.movements
        ],
        "targets": {name: sorted(t.libraries) for name, t in package.manifest.targets.items()},
        "bytes": sum(package.file(name).stat().st_size for name in package.manifest.files),
    }


def moved_bytes(plan: Plan, movement: Movement) -> int:
    """Return the bytes of all messages of a movement, with one group on each device."""
    value = plan.value(movement.source)
    owners = owners_of_sample(plan, assign_groups(plan, plan.groups), 0)
    parts = transfers(plan, movement, owners)
    return sum(payload_bytes(value, part) for part in parts if part.source != part.target)


def show_movements(summary: dict[str, Any]) -> None:
    """Print a table of what moves."""
    columns = ("movement", "kind", "wire", "bytes, one group a device")
    rows = [
        (f"{m['source']} -> {m['target']}", m["kind"], m["wire"], f"{m['bytes']:,}")
        for m in summary["movements"]
    ]
    print_table("", columns, rows, text=3)


def _tensor(value: Value) -> dict[str, Any]:
    return {"name": value.name, "shape": list(value.shape), "dtype": value.dtype}
