# SPDX-License-Identifier: Apache-2.0
"""What several commands share: parsers of option values, and loading a model."""

from __future__ import annotations

import argparse
import os
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from decnn_tvm.errors import InputError
from decnn_tvm.plan import STRATEGIES

if TYPE_CHECKING:
    from decnn_tvm.network import Network

LARGEST = 2**31 - 1
"""Of numbers of anything: an extent of a tensor has 32 bits."""
DIGITS = 100
"""Python itself refuses to read numbers of thousands of digits."""

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def add_command(
    commands: Commands,
    common: argparse.ArgumentParser,
    name: str,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model and how its dynamic dimensions are fixed."""
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="size of a dynamic batch (1)"
    )
    parser.add_argument(
        "--shape",
        type=named_shape,
        action="append",
        default=[],
        metavar="NAME=1,3,224,224",
        help="full shape of an input with dynamic dimensions; may be repeated",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add how a model is split, and what else decides which kernels it needs."""
    parser.add_argument(
        "--strategy",
        choices=tuple(STRATEGIES),
        default="channels",
        help="how devices share the work, all exactly: channels of every layer (default), rows of "
        "every feature map with halo exchange, a pipeline of layers, whole samples (replicas), or "
        "a single device",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--workers", type=positive, metavar="N", help="devices, evenly loaded")
    sizes.add_argument(
        "--shares",
        type=positives,
        metavar="2,1,1",
        help="channel groups of each device; of the other strategies strips, stages or turns",
    )
    parser.add_argument(
        "--all-shares",
        action=argparse.BooleanOptionalAction,
        help="hold code for any number of groups on a device, so that devices can come and go "
        "(default: for decoupled models)",
    )
    parser.add_argument(
        "--wire",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="element type of exchanged activations (float32); int8 wants --calibrate of "
        "`decnn compile`, or scales every message",
    )
    parser.add_argument(
        "--row-tiles",
        type=positive,
        default=1,
        metavar="N",
        help="run the layers beside an exchange in N bands of rows, which leave one by one: a "
        "shorter way for one sample on slow links (1)",
    )
    add_kernels(parser)


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """Add what decides how fast a layer is, however the model is split."""
    parser.add_argument(
        "--cores",
        type=positive,
        metavar="N",
        help="spread kernels over N cores of a device (default: those of the target, 1 for 'host')",
    )
    parser.add_argument(
        "--winograd",
        action=argparse.BooleanOptionalAction,
        help="compute wide 3x3 convolutions by Winograd's method: up to 3 times faster, and their "
        "weights take 4 times the memory (default: for models that are not decoupled)",
    )


def split_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_split` asked for, as `decnn_tvm.compile` and `decnn_tvm.tune` take it."""
    names = (
        "strategy",
        "workers",
        "shares",
        "all_shares",
        "cores",
        "wire",
        "row_tiles",
        "winograd",
    )
    return {name: getattr(options, name) for name in (*names, "winograd")}


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add how workers beyond loopback are reached."""
    parser.add_argument(
        "--keys",
        metavar="DIR",
        help="the coordinator's folder of those that `decnn keys` made; with local workers the "
        "whole folder",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="reach other machines without keys, in a network that you trust",
    )


def load_model(options: argparse.Namespace) -> Network:
    """Load the model that `add_model` asked for."""
    from decnn_tvm.frontend import load

    return load(options.model, batch=options.batch, shapes=dict(options.shape))


def check_output(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before there is anything to lose.

    Raises
    ------
    InputError
        It is a folder, or its folder is not there or not ours to write to.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = "permission denied"
    else:
        return
    raise InputError(f"{option} {path}: can't be written ({why}).")


def positive(text: str) -> int:
    """Parse an integer from 1 to `LARGEST`."""
    if not text.isdecimal() or len(text) > DIGITS or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"{reprlib.repr(text)}: expected a whole number, at least 1 and at most {LARGEST}"
        )
    return int(text)


def seed(text: str) -> int:
    """Parse a seed: an integer of 32 bits."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 to {2**32 - 1}")
    return int(text)


def positive_seconds(text: str) -> float:
    """Parse a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def size_option(text: str) -> int:
    """Parse bytes such as ``64M`` or ``1.5 GiB``."""
    from decnn_tvm.quantities import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positives(text: str) -> tuple[int, ...]:
    """Parse integers of at least 1, separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def numbers(text: str) -> tuple[float, ...]:
    """Parse numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers and commas") from error


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse ``NAME=1,3,224,224``; a name may hold ``=`` itself."""
    name, separator, shape = text.rpartition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=1,3,224,224")
    return name, positives(shape)
