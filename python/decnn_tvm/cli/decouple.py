# SPDX-License-Identifier: Apache-2.0
"""``decnn decouple``: a dense model in, a decoupled ONNX model out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.options import Commands, add_command, add_model, load_model, positive, seed
from decnn_tvm.cli.tables import count_text

if TYPE_CHECKING:
    from decnn_tvm.passes.shuffle_places import Where

EXAMPLE = """\
  decnn decouple resnet50.onnx -o grouped.onnx --preset resnet50-x1.75
  decnn decouple model.onnx -o grouped.onnx --groups 2 --width 1.5 --shuffle block"""


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands,
        common,
        "decouple",
        "make convolutions group convolutions with channel shuffles",
        "Turn dense convolutions into group convolutions, insert channel shuffles and widen the\n"
        "network. Its answers mean nothing until it has been trained.",
        EXAMPLE,
    )
    add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ONNX file to write")
    add_structure(parser)
    parser.add_argument(
        "--weights",
        choices=("inherit", "fresh"),
        default="inherit",
        help="keep what can be kept of the dense weights, or draw new ones",
    )
    return parser


def add_structure(parser: argparse.ArgumentParser) -> None:
    """Add what a network is to be decoupled into."""
    parser.add_argument("--preset", help="a published structure: it sets groups, width, shuffle")
    parser.add_argument("--groups", type=positive, default=4, metavar="G", help="groups (4)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels (1.0)")
    parser.add_argument(
        "--shuffle",
        type=_shuffle,
        default="stage",
        metavar="WHERE",
        help="stage (default), block, none, a number k: after every k convolutions, or layer "
        "names separated by commas",
    )
    parser.add_argument(
        "--order", choices=("decnn", "shufflenet"), default="decnn", help="order of the shuffle"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="LAYER", help="layers to leave dense"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of all that is drawn (0)")


def asks_for_structure(options: argparse.Namespace) -> bool:
    """Tell whether anything but the seed of `add_structure` is not as by default."""
    return structure_options(options) != {
        "groups": 4,
        "width": 1.0,
        "shuffle": "stage",
        "order": "decnn",
        "exclude": [],
        "preset": None,
    }


def structure_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_structure` asked for, but the seed, as `decnn_tvm.decouple` takes it."""
    names = ("groups", "width", "shuffle", "order", "exclude", "preset")
    return {name: getattr(options, name) for name in names}


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    network = load_model(options)
    from decnn_tvm.decoupling import decouple
    from decnn_tvm.frontend import save_onnx
    from decnn_tvm.inspection import inspect_network

    result = decouple(
        network,
        weights=options.weights,
        seed=options.seed,
        **structure_options(options),
    )
    save_onnx(result, options.output)
    before, after = inspect_network(network), inspect_network(result)
    grouped = sum(layer.groups == result.groups for layer in after.layers)
    print(f"{options.output}: {grouped} convolutions in {result.groups} groups")
    print(
        f"{count_text(before.macs)} -> {count_text(after.macs)} MACs, "
        f"{count_text(before.parameters)} -> {count_text(after.parameters)} parameters"
    )
    print("Train it before use: its weights are not those of a trained decoupled network.")


def _shuffle(text: str) -> Where | None:
    if text == "none":
        return None
    if text == "stage":
        return "stage"
    if text == "block":
        return "block"
    return positive(text) if text.lstrip("-").isdecimal() else text.split(",")
