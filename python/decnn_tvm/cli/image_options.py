# SPDX-License-Identifier: Apache-2.0
"""Options about images: taking pixels as they are, and calibrating int8 on them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.options import numbers
from decnn_tvm.errors import InputError
from decnn_tvm.plan import Host, Value

if TYPE_CHECKING:
    from decnn_tvm.cli.samples import Normalization, Sample
    from decnn_tvm.network import Network

METHODS = ("headroom", "max", "percentile", "mse")
"""Those of `decnn_tvm.channel_histogram`, which is not imported before it is needed."""


def add_pixels(parser: argparse.ArgumentParser) -> None:
    """Add what makes pixels the network's input."""
    parser.add_argument(
        "--uint8-input",
        action="store_true",
        help="take images as pixels of 8 bits, a quarter of the bytes, and normalize them in the "
        "first stage: (pixel / 255 - mean) / std",
    )
    parser.add_argument(
        "--mean", type=numbers, metavar="R,G,B", help="mean of image pixels in 0..1 (ImageNet's)"
    )
    parser.add_argument("--std", type=numbers, metavar="R,G,B", help="their deviation (ImageNet's)")


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add what scales of int8 are found on."""
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FOLDER",
        help="for --wire int8: find the scales on the images, .npy and .npz files of a folder, "
        "some dozens like those to come",
    )
    parser.add_argument(
        "--calibration-method",
        choices=METHODS,
        help=f"how a channel's range follows from what it held ({METHODS[0]})",
    )


def image_options(options: argparse.Namespace, network: Network) -> dict[str, Any]:
    """Return what `add_pixels` and `add_calibration` asked for, as `decnn_tvm.compile` takes it.

    Raises
    ------
    InputError
        Options that need another one, or a folder without samples.
    """
    from decnn_tvm.cli.samples import Normalization

    given = {name: getattr(options, name) for name in ("mean", "std") if getattr(options, name)}
    if given and not (options.uint8_input or options.calibrate):
        raise InputError("--mean, --std: they need --uint8-input or --calibrate. Leave them out.")
    if options.calibration_method and not options.calibrate:
        raise InputError("--calibration-method: needs --calibrate FOLDER.")
    normalization = Normalization(**given)
    found = _pixels(options, normalization)
    if options.calibrate:
        files = _sample_files(options.calibrate)
        found["calibration"] = _samples(files, network, normalization, options.uint8_input)
        found["calibration_method"] = options.calibration_method or METHODS[0]
    return found


def pixel_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_pixels` asked for, as `decnn_tvm.tune` takes it.

    Raises
    ------
    InputError
        A mean or deviation without pixels.
    """
    from decnn_tvm.cli.samples import Normalization

    given = {name: getattr(options, name) for name in ("mean", "std") if getattr(options, name)}
    if given and not options.uint8_input:
        raise InputError("--mean, --std: they need --uint8-input. Leave them out.")
    return _pixels(options, Normalization(**given))


def _pixels(options: argparse.Namespace, normalization: Normalization) -> dict[str, Any]:
    if not options.uint8_input:
        return {}
    return {"image_mean": normalization.mean, "image_std": normalization.std}


def _sample_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: expected a folder of images, .npy or .npz files; none there.")
    return files


def _samples(
    files: Sequence[Path], network: Network, normalization: Normalization, pixels: bool
) -> Iterator[Sample]:
    from decnn_tvm.cli.samples import read_sample

    inputs = [
        Value(
            name=info.name,
            shape=info.shape,
            dtype="uint8" if pixels else info.dtype,
            placement=Host(),
        )
        for info in network.inputs
    ]
    for path in files:
        yield read_sample(path, network.name, inputs, normalization)
