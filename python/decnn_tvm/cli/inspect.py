# SPDX-License-Identifier: Apache-2.0
"""``decnn inspect``: what a model is made of, and what of it can be decoupled."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from decnn_tvm.cli.options import Commands, add_command, add_model, load_model, positive
from decnn_tvm.cli.show_plan import show_movements, summarize
from decnn_tvm.cli.tables import count_text, print_table, shape_text
from decnn_tvm.plan import STRATEGIES

if TYPE_CHECKING:
    from decnn_tvm.inspection import Inspection, LayerInfo

EXAMPLE = """\
  decnn inspect resnet50.onnx
  decnn inspect yolo.onnx --shape images=1,3,320,320 --json
  decnn inspect resnet50.pkg"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "inspect",
        "show layers, costs, and what can be decoupled",
        "Show a model's inputs, outputs and layers: multiply-accumulates (MACs), parameters,\n"
        "activation bytes, and which convolutions can be decoupled and why the others can't.\n"
        "Of a package, show what moves between its devices, and in which element type.",
        EXAMPLE,
    )
    add_model(parser)
    parser.add_argument(
        "--groups", type=positive, default=4, metavar="G", help="channel groups to judge by (4)"
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    if Path(options.model).is_dir():
        _inspect_package(options)
        return
    network = load_model(options)
    from decnn_tvm.inspection import inspect_network

    inspection = inspect_network(network, groups=options.groups)
    if options.json:
        print(inspection.to_json())
    else:
        _show(inspection, options.groups)


def _inspect_package(options: argparse.Namespace) -> None:
    from decnn_tvm.package import Package

    summary = summarize(Package(options.model))
    if options.json:
        print(json.dumps(summary, indent=2))
        return
    kind = "decoupled" if summary["decoupled"] else "split"
    unit = STRATEGIES[summary["strategy"]]
    print(f"{summary['model']}: {kind} into {summary['groups']} {unit}")
    for label in ("inputs", "outputs"):
        for tensor in summary[label]:
            text = f"{tensor['dtype']} {shape_text(tensor['shape'])}"
            print(f"  {label[:-1]:6} {tensor['name']}: {text}")
    show_movements(summary)
    for name, libraries in summary["targets"].items():
        print(f"target {name}: libraries for {', '.join(map(str, libraries))} groups on a device")


def _show(inspection: Inspection, groups: int) -> None:
    state = f"{inspection.groups} channel groups" if inspection.groups else "dense"
    print(f"{inspection.name}: {state}")
    for label, tensors in (("input", inspection.inputs), ("output", inspection.outputs)):
        for tensor in tensors:
            print(f"  {label:6} {tensor.name}: {tensor.dtype} {shape_text(tensor.shape)}")
    columns = ("layer", "kind", f"G={groups}", "output", "MACs", "parameters", "activation bytes")
    print_table("", columns, [_row(layer) for layer in inspection.layers], text=3)
    weighted = [layer for layer in inspection.layers if layer.kind == "conv2d"]
    able = [layer for layer in weighted if layer.can_decouple]
    share = sum(layer.macs for layer in able) / max(1, inspection.macs)
    print(
        f"total: {count_text(inspection.macs)} MACs, {count_text(inspection.parameters)} "
        f"parameters, {count_text(inspection.activation_bytes)}B of activations "
        f"(largest {count_text(inspection.largest_activation_bytes)}B)"
    )
    print(
        f"{len(able)} of {len(weighted)} convolutions can be decoupled into {groups} groups: "
        f"{share:.1%} of the MACs"
    )


def _row(layer: LayerInfo) -> tuple[str, ...]:
    verdict = "decouple" if layer.can_decouple else layer.reason
    return (
        layer.name,
        layer.kind,
        verdict if layer.kind in ("conv2d", "dense") else "",
        shape_text(layer.shape),
        count_text(layer.macs) if layer.macs else "",
        f"{layer.parameters:,}" if layer.parameters else "",
        f"{layer.activation_bytes:,}",
    )
