# SPDX-License-Identifier: Apache-2.0
"""Write the trained network that comes with the library, and its card, from a run.

It takes the options of ``benchmarks.accuracy`` and finds the run that they name (or trains it): one
variant, one network, the first seed. With ``--study starts`` that is a run of one of ``--starts``,
of as many epochs as the first of ``--budgets`` says. ``decnn demo`` classifies images with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy import read_options, regime_of, stage_channels
from benchmarks.accuracy_runs import DENSE, VARIANTS, Regime, Run, trained
from benchmarks.accuracy_studies import Starts
from benchmarks.harness import progress
from decnn_tvm.demo.shipped_network import CARD, MODEL, ModelCard
from decnn_tvm.frontend import save_onnx
from decnn_tvm.training import wire_accuracies
from decnn_tvm.training.finetune import CALIBRATION_IMAGES

FOLDER = Path(__file__).parents[1] / "python" / "decnn_tvm" / "demo" / "cifar10"
LICENCE = (
    "The weights are part of decnn-tvm and under its licence, Apache-2.0. They were trained from "
    "random numbers on CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny "
    "Images, 2009), whose authors publish it for research without a licence text; no image of it "
    "is in this package."
)


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> None:
    """Write the network and the card."""
    options = read_options(arguments, "benchmarks.ship_network", __doc__ or "")
    variants = [v for v in VARIANTS if any(part in v for part in options.variants or VARIANTS)]
    if len(variants) != 1 or len(options.networks) != 1 or VARIANTS[variants[0]] is None:
        raise SystemExit(f"--variants names {variants}; expected one decoupled one of one network")
    torch.set_num_threads(options.threads)
    regime = regime_of(options)
    run = _run(regime, variants[0], options)
    card = _card(regime, run, variants[0], options)
    folder.mkdir(parents=True, exist_ok=True)
    save_onnx(run.network, folder / MODEL)
    (folder / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=1) + "\n")
    progress(f"{folder}: {card.name}, top-1 {card.accuracy:.2%}")


def _run(regime: Regime, variant: str, options: argparse.Namespace) -> Run:
    name, seed = options.networks[0], options.seeds[0]
    if options.study != "starts":
        return trained(regime, name, variant, seed)
    dense = trained(regime, name, DENSE, seed).network
    starts = Starts(regime, name, variant, seed, dense, options.start_rate)
    return starts.train(options.starts[0], options.budgets[0])


def _card(regime: Regime, run: Run, variant: str, options: argparse.Namespace) -> ModelCard:
    name, seed = options.networks[0], options.seeds[0]
    images = regime.batches(seed).calibration(CALIBRATION_IMAGES)
    width = variant.split(",")[0].replace(" ", "-").lower()
    return ModelCard(
        name=f"{name}-{width}-cifar10",
        structure=variant,
        channels=stage_channels(run.network),
        classes=list(regime.data.classes),
        mean=list(regime.mean),
        std=list(regime.std),
        accuracy=run.accuracy,
        wire_accuracy=wire_accuracies(
            run.network, regime.batches(seed), images, device=regime.device
        ),
        epochs=len(run.report["history"]),
        macs=run.report["cost"]["macs"],
        parameters=run.report["cost"]["parameters"],
        recipe=run.report["recipe"],
        start=run.report["start"],
        teacher_accuracy=run.report["teacher_accuracy"],
        regime=regime.describe(),
        command=_command(variant, options),
        licence=LICENCE,
    )


def _command(variant: str, options: argparse.Namespace) -> str:
    """Return the command with every option that can change the weights."""
    given = {
        "data": options.data.name,
        "out": "FOLDER",
        "networks": options.networks[0],
        "variants": variant,
        "epochs": options.epochs,
        "seeds": options.seeds[0],
        "batch": options.batch,
        "learning-rate": options.learning_rate,
        "weight-decay": options.weight_decay,
        "subset": options.subset,
        "device": options.device,
        "threads": options.threads,
    }
    if options.study == "starts":
        given |= {
            "study": options.study,
            "starts": options.starts[0],
            "budgets": options.budgets[0],
            "start-rate": options.start_rate,
        }
    words = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return shlex.join(["python", "-m", "benchmarks.ship_network", *itertools.chain(*words)])


if __name__ == "__main__":
    main()
