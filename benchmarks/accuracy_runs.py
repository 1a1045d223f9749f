# SPDX-License-Identifier: Apache-2.0
"""Runs of `benchmarks.accuracy`: which networks there are, and each trained once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import progress
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.passes.widen_channels import WidenChannels
from decnn_tvm.testing.residual_networks import cifar_resnet
from decnn_tvm.training import ImageBatches, ImageData, Recipe, train_network
from decnn_tvm.training.finetune import TRAINED
from decnn_tvm.training.trainer import TrainingProgress

GROUPS = 4
DENSE = "dense"
VARIANTS: Mapping[str, Mapping[str, Any] | None] = {
    DENSE: None,
    "G4 x1, no shuffle": {"shuffle": None},
    "G4 x1, stage shuffles": {"shuffle": "stage"},
    "G4 x1, block shuffles": {"shuffle": "block"},
    "G4 x1.5, stage shuffles": {"shuffle": "stage", "width": 1.5},
    "G4 x1.75, stage shuffles": {"shuffle": "stage", "width": 1.75},
}
"""What is compared: options of `decnn_tvm.decouple`, None for the network as it is."""

NETWORKS = {"resnet20": 20, "resnet18": 18}
_REPORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What runs must have in common to be compared.

    Attributes
    ----------
    data : ImageData
        The images, all or some of them.
    mean, std : tuple of float
        How pixels are normalised.
    batch_size : int
        Images of a batch.
    recipe : Recipe
        Without its seed.
    folder : Path
        Where the runs of all regimes are.
    device : str
        Where they are trained.
    """

    data: ImageData
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    recipe: Recipe
    folder: Path
    device: str

    def describe(self) -> str:
        """Return what a reader of the table must know."""
        recipe = self.recipe
        return (
            f"{len(self.data.train.labels)} images, {recipe.epochs} epochs, batch "
            f"{self.batch_size}, lr {recipe.learning_rate:g} {recipe.schedule}, weight decay "
            f"{recipe.weight_decay:g}, {torch.device(self.device).type}"
        )

    def key(self, recipe: Recipe) -> str:
        """Return a short text that differs where recipes, but for the seed, or data do."""
        settings = {**dataclasses.asdict(recipe), "seed": None, "batch_size": self.batch_size}
        settings |= {"data": self.data.fingerprint(), "device": torch.device(self.device).type}
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def run_folder(self, recipe: Recipe, *names: str) -> Path:
        """Return the folder of a run: one for each recipe and data, then by `names` and seed."""
        parts = [name.replace(" ", "_").replace(",", "") for name in names]
        return self.folder.joinpath("runs", self.key(recipe), *parts, f"seed{recipe.seed}")

    def batches(self, seed: int) -> ImageBatches:
        """Return the batches of a seed."""
        return ImageBatches(
            self.data,
            mean=self.mean,
            std=self.std,
            batch_size=self.batch_size,
            seed=seed,
            device=self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A network that was trained, and the data of its report."""

    network: Network
    report: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of test images ranked right after the last epoch, 0 to 1."""
        return float(self.report["history"][-1]["accuracy"])


def base_network(name: str, seed: int) -> Network:
    """Return the dense network with fresh weights."""
    network = load(cifar_resnet(NETWORKS[name], seed=seed), name=name)
    renew = WidenChannels(width=1.0, groups=1, multiple=1, weights="fresh", seed=seed)
    return dataclasses.replace(network, module=renew(network.module))  # type: ignore[operator]


def variant_network(name: str, variant: str, seed: int) -> Network:
    """Return one of `VARIANTS` with fresh weights."""
    options, dense = VARIANTS[variant], base_network(name, seed)
    if options is None:
        return dense
    return decouple(dense, groups=GROUPS, weights="fresh", seed=seed, **options)


def trained(regime: Regime, name: str, variant: str, seed: int) -> Run:
    """Train a variant from fresh weights, or read what was trained."""
    return train_once(
        regime,
        dataclasses.replace(regime.recipe, seed=seed),
        lambda: variant_network(name, variant, seed),
        names=(name, variant),
        start="fresh",
    )


def train_once(
    regime: Regime,
    recipe: Recipe,
    network: Any,
    *,
    names: tuple[str, ...],
    start: str,
    teacher: Network | None = None,
) -> Run:
    """Train what ``network()`` gives, or read what was trained; `names` name the folder."""
    folder = regime.run_folder(recipe, *names)
    if (folder / "report.json").exists():
        data = json.loads((folder / "report.json").read_text())
        return Run(network=load(folder / TRAINED), report=data)
    label = f"{', '.join(names)}, seed {recipe.seed}"
    result, found = train_network(
        network(),
        regime.batches(recipe.seed),
        folder,
        recipe,
        teacher=teacher,
        start=start,
        device=regime.device,
        progress=_Progress(label),
    )
    return Run(network=result, report=json.loads(json.dumps(found.to_dict())))


class _Progress:
    """Says every half minute how far a run is."""

    def __init__(self, label: str) -> None:
        self.label, self.last, self.done = label, 0.0, -1

    def __call__(self, state: TrainingProgress) -> None:
        now = time.monotonic()
        done = len(state.history)
        if done == self.done and now - self.last < _REPORT_SECONDS:
            return
        self.last, self.done = now, done
        best = f", top-1 {state.history[-1].accuracy:.2%}" if state.history else ""
        progress(
            f"{self.label}: epoch {done + (state.step < state.steps)} of {state.epochs}, step "
            f"{state.step} of {state.steps}, loss {state.loss:.3f}{best}"
        )
