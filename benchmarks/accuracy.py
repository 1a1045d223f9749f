# SPDX-License-Identifier: Apache-2.0
"""How accurate decoupled networks are on CIFAR-10, trained alike, beside the dense ones.

The table: dense; four groups without shuffles, with shuffles after stages, with a shuffle after
each block; and wider ones, x1.5 and x1.75. ``--study untrained`` shows instead how near a decoupled
network is before any training; ``--study starts`` how many epochs each start needs to come within
half a point of the dense network; ``--study wires`` what float16 and int8 exchanges cost.

Every run is kept under ``--out``, in a folder of its regime (images, epochs, recipe, device): what
is there is not trained again, what was interrupted goes on, and one table shows one regime alone.
The accuracy is that of the last epoch, so that test images choose nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.accuracy_runs import DENSE, NETWORKS, VARIANTS, Regime, trained
from benchmarks.accuracy_studies import STARTS, study_starts, study_untrained, study_wires
from benchmarks.cifar10 import channel_statistics, first_images, read_cifar10
from benchmarks.harness import Figure, parser, progress, report
from decnn_tvm.training import Recipe

WIDEST, WIDER = "G4 x1.75, stage shuffles", "G4 x1.5, stage shuffles"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = read_options(arguments)
    torch.set_num_threads(options.threads)
    regime = regime_of(options)
    variants = [variant for variant in VARIANTS if _wanted(variant, options.variants)]
    rows: list[dict[str, Any]] = []
    summary: dict[str, Figure] = {}
    for name in options.networks:
        if options.study == "starts":
            studied = [v for v in variants if VARIANTS[v] and VARIANTS[v].get("width")]  # type: ignore[union-attr]
            found, figures = study_starts(
                regime,
                name,
                studied,
                options.seeds[0],
                options.budgets,
                options.start_rate,
                options.starts,
            )
        elif options.study == "untrained":
            decoupled = [v for v in variants if v != DENSE]
            found, figures = study_untrained(regime, name, decoupled, options.seeds[0])
        elif options.study == "wires":
            found, figures = study_wires(regime, name, variants, options.seeds)
        else:
            found, figures = _table(regime, name, variants, options.seeds)
        rows += found
        summary |= figures
    title = f"{options.study or 'accuracy'} on CIFAR-10 (JPEG): {regime.describe()}"
    rows = [{**row, "regime": regime.describe()} for row in rows]
    report(title, rows, summary, options.json)


def _table(
    regime: Regime, name: str, variants: Sequence[str], seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, Figure]]:
    rows, found = [], {}
    for variant in variants:
        runs = [trained(regime, name, variant, seed) for seed in seeds]
        cost = runs[0].report["cost"]
        found[variant] = 100 * mean(run.accuracy for run in runs)
        rows.append(
            {
                "network": name,
                "variant": variant,
                "channels": "/".join(map(str, stage_channels(runs[0].network))),
                "M MACs": cost["macs"] / 1e6,
                "k parameters": cost["parameters"] / 1e3,
                "exchange kB, float32": cost["exchange_bytes"]["float32"] / 1e3,
                "top-1, %": round(found[variant], 2),
                "by seed": ", ".join(f"{100 * run.accuracy:.2f}" for run in runs),
                "s / epoch": mean(h["seconds"] for run in runs for h in run.report["history"]),
            }
        )
        progress(f"{name}, {variant}: {found[variant]:.2f} %")
    summary = {}
    for variant, aim in ((WIDEST, 0.0), (WIDER, -0.5)):
        if {DENSE, variant} <= set(found):
            gain = found[variant] - found[DENSE]
            summary[f"{name}, {variant}: points above dense"] = Figure(gain, aim)
    return rows, summary


def stage_channels(network: Any) -> list[int]:
    """Return the channels of each stage, in order."""
    from decnn_tvm.inspection import inspect_network

    sizes = [layer.shape[1] for layer in inspect_network(network).layers if layer.kind == "conv2d"]
    return list(dict.fromkeys(sizes))


def regime_of(options: argparse.Namespace) -> Regime:
    """Return the regime that the options ask for, its images read."""
    data = read_cifar10(options.data, options.out)
    if options.subset is not None:
        data = first_images(data, options.subset, max(256, options.subset // 5))
    mean_, std = channel_statistics(data)
    recipe = Recipe(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        schedule="cosine",
        warmup_epochs=min(1.0, 0.2 * options.epochs),
        keep_best=False,
    )
    return Regime(
        data=data,
        mean=mean_,
        std=std,
        batch_size=options.batch,
        recipe=recipe,
        folder=options.out,
        device=options.device,
    )


def _wanted(variant: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(pattern in variant for pattern in patterns)


def read_options(
    arguments: Sequence[str] | None,
    module: str = "benchmarks.accuracy",
    description: str = __doc__ or "",
) -> argparse.Namespace:
    """Return the options of the command line of a module that is described so."""
    options = parser(module, description)
    add = options.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="the archive of JPEG images")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where runs are kept")
    add("--networks", nargs="+", choices=NETWORKS, default=["resnet20"], help="(resnet20)")
    add("--variants", nargs="+", metavar="PART", help="rows whose names hold one of these (all)")
    add("--epochs", type=int, default=30, help="(%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0], help="(0)")
    add("--study", choices=("untrained", "starts", "wires"), help="a study instead of the table")
    add("--budgets", type=int, nargs="+", default=[1, 2, 3, 6, 10, 20, 30], metavar="EPOCHS",
        help="epochs that --study starts tries, in turn (1 2 3 6 10 20 30)")  # fmt: skip
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS), metavar="START",
        help=f"what --study starts compares, of {', '.join(map(repr, STARTS))} (all)")  # fmt: skip
    add("--batch", type=int, default=128, help="(%(default)s)")
    add("--learning-rate", type=float, default=0.1, help="of fresh weights (%(default)s)")
    add("--start-rate", type=float, default=0.1, help="of inherited weights (%(default)s)")
    add("--weight-decay", type=float, default=5e-4, help="(%(default)s)")
    add(
        "--subset",
        type=int,
        metavar="N",
        help="train on N images, for a trial; a regime of its own",
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=default, help="cpu or cuda (%(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (%(default)s)")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
