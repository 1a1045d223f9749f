# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.prediction` predicts and measures: boards, ways to run a network, packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import progress
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.plan import Strategy
from decnn_tvm.planning.shares import proportional_shares
from decnn_tvm.testing import zoo

BOARDS = 4
NETWORKS = {
    "resnet50": ("resnet50", "resnet50-x1.75"),
    "resnet34": ("resnet34", "resnet34-x1.75"),
    "vgg16_bn": ("vgg16_bn", "vgg16_bn"),
}
"""Models, and how they are decoupled."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Boards: cores of each, and bits per second of each link."""

    name: str
    quota: float
    rate: float


SETTINGS = (Setting("0.25 core, 1 Gb/s", 0.25, 1e9), Setting("0.125 core, 100 Mb/s", 0.125, 1e8))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to run a network; `decoupled` names what it is decoupled to."""

    name: str
    strategy: Strategy
    shares: tuple[int, ...]
    wire: str = "float32"
    decoupled: bool = False


EVEN = (1,) * BOARDS
UNEVEN_GROUPS = 7
CONTESTANTS = (
    Contestant("replicas", "replicas", EVEN),
    Contestant("layer pipeline", "pipeline", EVEN),
    Contestant("row strips", "rows", EVEN),
    Contestant("exact channel split", "channels", EVEN),
    Contestant("decoupled", "channels", EVEN, decoupled=True),
    Contestant("decoupled, float16", "channels", EVEN, wire="float16", decoupled=True),
)


class Packages:
    """Networks and what was compiled of them, each once, in a folder that may be kept."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        model, preset = NETWORKS[name]
        self.dense = load(zoo.MODELS[model](), name=name)
        self.grouped = decouple(self.dense, preset=preset, weights="fresh")

    def network(self, contestant: Contestant) -> Network:
        """Return the network of a contestant."""
        return self.grouped if contestant.decoupled else self.dense

    def package(self, contestant: Contestant) -> Package:
        """Return its package."""
        shares = "-".join(map(str, contestant.shares))
        name = f"{self.dense.name}-{contestant.strategy}-{shares}-{contestant.wire}"
        path = self._folder / (name + ("-decoupled" if contestant.decoupled else ""))
        if not path.exists():
            progress(f"compiling {path.name}")
            compile_network(
                self.network(contestant),
                path,
                strategy=contestant.strategy,
                shares=contestant.shares,
                wire=contestant.wire,
            )
        return Package(path)


def even_and_uneven(clocks: Sequence[float]) -> list[Contestant]:
    """Return row strips in even and in uneven shares."""
    shares = proportional_shares(UNEVEN_GROUPS, clocks)
    return [Contestant("even", "rows", EVEN), Contestant("uneven", "rows", shares)]
