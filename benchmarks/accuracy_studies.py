# SPDX-License-Identifier: Apache-2.0
"""Studies of `benchmarks.accuracy`: right after decoupling, starts of a training, and wires."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy_runs import (
    DENSE,
    GROUPS,
    VARIANTS,
    Regime,
    train_once,
    trained,
    variant_network,
)
from benchmarks.harness import Figure, progress
from decnn_tvm.decoupling import decouple
from decnn_tvm.network import Network
from decnn_tvm.training import (
    Distillation,
    Recipe,
    accuracy,
    decouple_calibrated,
    to_torch,
    wire_accuracies,
)
from decnn_tvm.training.finetune import CALIBRATION_IMAGES

WITHIN = 0.005
"""A start has arrived when it is this near to the dense network: half a point."""

_CALIBRATION = 512
Rows = list[dict[str, Any]]


def study_starts(
    regime: Regime,
    name: str,
    variants: Sequence[str],
    seed: int,
    budgets: Sequence[int],
    learning_rate: float,
) -> tuple[Rows, dict[str, Figure]]:
    """Compare starts: accuracy before any training, and the epochs to come near the dense network.

    The epochs of a start are the smallest of `budgets` with which a whole training, its learning
    rate going down to 0 within it, comes `WITHIN` the dense network. Fresh weights train with the
    regime's learning rate, inherited ones with `learning_rate`.
    """
    dense = trained(regime, name, DENSE, seed)
    rows: Rows = []
    summary: dict[str, Figure] = {}
    for variant in variants:
        starts = _starts(regime, name, variant, seed, dense.network)
        needed: dict[str, int | None] = {}
        for start, (network, distils) in starts.items():
            before = _accuracy(regime, to_torch(network()), seed)
            recipe = _recipe(regime, start, seed, learning_rate, distils)
            needed[start], best = _epochs_needed(
                regime, recipe, budgets, network, (name, variant, start), dense.network,
                dense.accuracy - WITHIN,
            )  # fmt: skip
            rows.append(
                {
                    "network": name,
                    "variant": variant,
                    "start": start,
                    "lr": recipe.learning_rate,
                    "top-1 before training, %": 100 * before,
                    "epochs to dense - 0.5": needed[start],
                    "top-1 reached, %": 100 * best,
                    "dense top-1, %": 100 * dense.accuracy,
                }
            )
        fresh, distilled = needed["fresh"], needed["calibrated, distilled"]
        if fresh and distilled:
            summary[f"{name} {variant}: epochs, distilled / fresh"] = Figure(
                distilled / fresh, 0.2, at_most=True
            )
    return rows, summary


def study_untrained(
    regime: Regime, name: str, variants: Sequence[str], seed: int
) -> tuple[Rows, dict[str, Figure]]:
    """Compare the accuracy right after decoupling, and what each part of the calibration gives."""
    dense = trained(regime, name, DENSE, seed)
    images = regime.batches(seed).calibration(_CALIBRATION).cpu()
    rows: Rows = []
    for variant in variants:
        options = VARIANTS[variant]
        assert options is not None
        naive = partial(decouple, dense.network, groups=GROUPS, **options)
        calibrated = partial(decouple_calibrated, dense.network, images, groups=GROUPS, **options)
        for weights, module in {
            "naive": to_torch(naive()),
            "naive, statistics taken anew": _with_statistics(naive(), images),
            "groups chosen, not fitted": to_torch(calibrated(fit=False)),
            "natural groups, fitted": to_torch(calibrated(starts=0)),
            "calibrated: groups chosen and fitted": to_torch(calibrated()),
        }.items():
            rows.append(
                {
                    "network": name,
                    "variant": variant,
                    "weights": weights,
                    "top-1, %": round(100 * _accuracy(regime, module, seed), 2),
                    "dense top-1, %": round(100 * dense.accuracy, 2),
                }
            )
            progress(f"{variant}, {weights}: {rows[-1]['top-1, %']} %")
    return rows, {}


def _with_statistics(network: Network, images: Tensor) -> nn.Module:
    """Return the module with the batch norms' statistics of these images."""
    module = to_torch(network, momentum=1.0).train()
    with torch.no_grad():
        module(images)
    return module.eval()


def study_wires(
    regime: Regime, name: str, variants: Sequence[str], seeds: Sequence[int]
) -> tuple[Rows, dict[str, Figure]]:
    """Compare the accuracy of trained networks by the wire of their exchanges."""
    rows: Rows = []
    for variant in variants:
        for seed in seeds:
            if VARIANTS[variant] is None:
                continue
            run = trained(regime, name, variant, seed)
            batches = regime.batches(seed)
            images = batches.calibration(CALIBRATION_IMAGES)
            found = wire_accuracies(run.network, batches, images, device=regime.device)
            sent = run.report["cost"]["exchange_bytes"]
            row: dict[str, Any] = {"network": name, "variant": variant, "seed": seed}
            row["float32 top-1, %"] = 100 * found["float32"]
            for wire in ("float16", "int8"):
                row[f"{wire} loss, points"] = 100 * (found["float32"] - found[wire])
                row[f"{wire} kB"] = sent[wire] / 1e3
            rows.append(row)
    return rows, {}


def _starts(
    regime: Regime, name: str, variant: str, seed: int, dense: Network
) -> dict[str, tuple[Callable[[], Network], bool]]:
    """Return for each start what makes the network, and whether it learns from the dense one."""
    options = VARIANTS[variant]
    assert options is not None
    images = regime.batches(seed).calibration(_CALIBRATION).cpu()
    calibrated = _Once(partial(decouple_calibrated, dense, images, groups=GROUPS, **options))
    return {
        "fresh": (partial(variant_network, name, variant, seed), False),
        "inherited, naive": (partial(decouple, dense, groups=GROUPS, **options), False),
        "inherited, calibrated": (calibrated, False),
        "calibrated, distilled": (calibrated, True),
    }


class _Once:
    """Calls a function once and remembers."""

    def __init__(self, make: Callable[[], Network]) -> None:
        self.make = make
        self.made: Network | None = None

    def __call__(self) -> Network:
        if self.made is None:
            self.made = self.make()
        return self.made


def _recipe(regime: Regime, start: str, seed: int, learning_rate: float, distils: bool) -> Recipe:
    rate = regime.recipe.learning_rate if start == "fresh" else learning_rate
    return dataclasses.replace(
        regime.recipe,
        seed=seed,
        learning_rate=rate,
        distillation=Distillation() if distils else None,
    )


def _epochs_needed(
    regime: Regime,
    recipe: Recipe,
    budgets: Sequence[int],
    network: Callable[[], Network],
    names: tuple[str, ...],
    teacher: Network,
    wanted: float,
) -> tuple[int | None, float]:
    best = 0.0
    for budget in sorted(budgets):
        warmup = min(recipe.warmup_epochs, 0.2 * budget)
        given = dataclasses.replace(recipe, epochs=budget, warmup_epochs=warmup)
        run = train_once(
            regime,
            given,
            network,
            names=names,
            start=names[-1],
            teacher=teacher if recipe.distillation else None,
        )
        best = max(best, run.accuracy)
        if run.accuracy >= wanted:
            return budget, best
    return None, best


def _accuracy(regime: Regime, module: nn.Module, seed: int) -> float:
    return accuracy(module.to(torch.device(regime.device)), regime.batches(seed))
