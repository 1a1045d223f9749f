# SPDX-License-Identifier: Apache-2.0
"""Studies of `benchmarks.accuracy`: right after decoupling, starts of a training, and wires."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy_runs import (
    DENSE,
    GROUPS,
    VARIANTS,
    Regime,
    Run,
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

STARTS = FRESH, NAIVE, CALIBRATED, DISTILLED = (
    "fresh",
    "inherited, naive",
    "inherited, calibrated",
    "calibrated, distilled",
)
_CALIBRATION = 512
Rows = list[dict[str, Any]]


def study_starts(
    regime: Regime,
    name: str,
    variants: Sequence[str],
    seed: int,
    budgets: Sequence[int],
    learning_rate: float,
    chosen: Sequence[str],
) -> tuple[Rows, dict[str, Figure]]:
    """Compare starts: accuracy before any training, and the epochs to come near the dense network.

    The epochs of a start are the smallest of `budgets` with which a whole training, its learning
    rate going down to 0 within it, comes `WITHIN` the dense network. Fresh weights train with the
    regime's learning rate, inherited ones with `learning_rate`; `chosen` are some of `STARTS`.
    """
    dense = trained(regime, name, DENSE, seed)
    rows: Rows = []
    summary: dict[str, Figure] = {}
    for variant in variants:
        starts = Starts(regime, name, variant, seed, dense.network, learning_rate)
        needed: dict[str, int | None] = {}
        for start in chosen:
            before = _accuracy(regime, to_torch(starts.network(start)), seed)
            needed[start], best = _epochs_needed(starts, start, budgets, dense.accuracy - WITHIN)
            rows.append(
                {
                    "network": name,
                    "variant": variant,
                    "start": start,
                    "lr": starts.recipe(start, max(budgets)).learning_rate,
                    "top-1 before training, %": 100 * before,
                    "epochs to dense - 0.5": needed[start],
                    "top-1 reached, %": 100 * best,
                    "dense top-1, %": 100 * dense.accuracy,
                }
            )
        fresh, distilled = needed.get(FRESH), needed.get(DISTILLED)
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


class Starts:
    """The starts of one variant, which train the same way from different weights.

    Parameters
    ----------
    regime, name, variant, seed
        What is trained; see `benchmarks.accuracy_runs`.
    dense : Network
        The trained dense network: what is inherited, and the teacher.
    learning_rate : float
        For inherited weights.
    """

    def __init__(
        self,
        regime: Regime,
        name: str,
        variant: str,
        seed: int,
        dense: Network,
        learning_rate: float,
    ) -> None:
        self.regime, self.name, self.variant, self.seed = regime, name, variant, seed
        self.dense, self.learning_rate = dense, learning_rate
        self._calibrated: Network | None = None

    def network(self, start: str) -> Network:
        """Return the network before any training."""
        options = VARIANTS[self.variant]
        assert options is not None
        if start == FRESH:
            return variant_network(self.name, self.variant, self.seed)
        if start == NAIVE:
            return decouple(self.dense, groups=GROUPS, **options)
        if self._calibrated is None:
            images = self.regime.batches(self.seed).calibration(_CALIBRATION).cpu()
            self._calibrated = decouple_calibrated(self.dense, images, groups=GROUPS, **options)
        return self._calibrated

    def recipe(self, start: str, epochs: int) -> Recipe:
        """Return the recipe of a training of so many epochs."""
        recipe = self.regime.recipe
        return dataclasses.replace(
            recipe,
            seed=self.seed,
            epochs=epochs,
            warmup_epochs=min(recipe.warmup_epochs, 0.2 * epochs),
            learning_rate=recipe.learning_rate if start == FRESH else self.learning_rate,
            distillation=Distillation() if start == DISTILLED else None,
        )

    def train(self, start: str, epochs: int) -> Run:
        """Train from a start, or read what was trained."""
        recipe = self.recipe(start, epochs)
        if recipe == dataclasses.replace(self.regime.recipe, seed=self.seed) and start == FRESH:
            return trained(self.regime, self.name, self.variant, self.seed)
        # Inherited weights are those of a dense network of this regime.
        source = () if start == FRESH else (f"dense {self.regime.key(self.regime.recipe)}",)
        return train_once(
            self.regime,
            recipe,
            lambda: self.network(start),
            names=(self.name, self.variant, start, *source),
            start=start,
            teacher=self.dense if start == DISTILLED else None,
        )


def _epochs_needed(
    starts: Starts, start: str, budgets: Sequence[int], wanted: float
) -> tuple[int | None, float]:
    best = 0.0
    for budget in sorted(budgets):
        found = starts.train(start, budget).accuracy
        best = max(best, found)
        if found >= wanted:
            return budget, best
    return None, best


def _accuracy(regime: Regime, module: nn.Module, seed: int) -> float:
    return accuracy(module.to(torch.device(regime.device)), regime.batches(seed))
