# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.boards` compares: boards and links, and the ways to run a network on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from decnn_tvm.plan import Strategy

STRATEGIES = ("decoupled", "single", "replicas", "pipeline", "channels", "rows")
WIRES = ("int8", "float16", "float32")
ENGINES = ("ONNX Runtime", "ncnn")
THREADS = (1, 2)
"""Thread counts of an engine that are tried; the better one takes part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Boards: cores of each, and bits per second of each link."""

    cores: float
    rate: float

    def __str__(self) -> str:
        return f"{self.cores:g} core, {self.rate / 1e6:g} Mb/s"


SETTINGS = {"a": Setting(cores=0.25, rate=1e9), "b": Setting(cores=0.125, rate=1e8)}
"""A Raspberry Pi 4 on Gigabit Ethernet; the ratio of computing and links in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoupling:
    """How a dense network is decoupled: by a preset where the preset is for that G.

    With `winograd` its wide 3x3 convolutions are computed by Winograd's method, as those of dense
    networks are by default.
    """

    model: str
    preset: str
    width: float | None
    winograd: bool | None = None


NETWORKS = {
    "resnet50-x1.75": Decoupling(model="resnet50", preset="resnet50-x1.75", width=1.75),
    "resnet50-x1.5": Decoupling(model="resnet50", preset="resnet50-x1.5", width=1.5),
    "resnet34-x1.75": Decoupling(model="resnet34", preset="resnet34-x1.75", width=1.75),
    "resnet34-x1.75-winograd": Decoupling(
        model="resnet34", preset="resnet34-x1.75", width=1.75, winograd=True
    ),
    "resnet34-x1.5": Decoupling(model="resnet34", preset="resnet34-x1.5", width=1.5),
    "vgg16_bn-x1.75": Decoupling(model="vgg16_bn", preset="vgg16_bn", width=None),
    "vgg16_bn-x1.75-winograd": Decoupling(
        model="vgg16_bn", preset="vgg16_bn", width=None, winograd=True
    ),
}
"""Decoupled networks by name."""
PRESET_GROUPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A way to run a network on boards.

    Attributes
    ----------
    network : str
        A key of `NETWORKS` where `strategy` is "decoupled", of `decnn_tvm.testing.zoo.MODELS`
        otherwise.
    strategy : str
        One of `STRATEGIES`.
    boards : int
        How many boards.
    wire : str
        Element type of exchanges.
    groups : int
        Channel groups of a decoupled network.
    tiles : int
        Row tiles.
    """

    network: str
    strategy: str
    boards: int
    wire: str
    groups: int = 0
    tiles: int = 1

    @property
    def split(self) -> Strategy:
        """How the compiler calls the strategy."""
        return "channels" if self.strategy == "decoupled" else self.strategy  # type: ignore[return-value]

    @property
    def model(self) -> str:
        """The name of the network with its groups: what weights and references depend on."""
        return f"{self.network}-G{self.groups}" if self.groups else self.network

    @property
    def package(self) -> str:
        """The folder of its package; one of a decoupled network serves any number of boards."""
        boards = "" if self.groups or self.strategy == "single" else f"-{self.boards}"
        tiles = f"-tiles{self.tiles}" if self.tiles > 1 else ""
        return f"{self.model}-{self.strategy}{boards}-{self.wire}{tiles}"

    def __str__(self) -> str:
        tiles = f", {self.tiles} row tiles" if self.tiles > 1 else ""
        return f"{self.model} {self.strategy}, {self.wire}{tiles}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Contestants of one dense network on the same boards, measured in turns."""

    setting: str
    boards: int
    encrypted: bool
    delay: float
    model: str
    contestants: tuple[Contestant, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)

    @property
    def place(self) -> dict[str, Any]:
        """What the rows of this scene begin with."""
        return {
            "setting": self.setting,
            "encrypted": self.encrypted,
            "delay ms": self.delay,
        }

    def row_of(self, contestant: Contestant) -> dict[str, Any]:
        """Return what a contestant's row says of it, before anything is measured."""
        return self.place | {
            "network": contestant.model,
            "contestant": contestant.strategy,
            "boards": contestant.boards,
            "wire": contestant.wire,
            "tiles": contestant.tiles,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scene:
        """Read it back."""
        contestants = tuple(Contestant(**one) for one in data["contestants"])
        return Scene(**{**data, "contestants": contestants})

    def __str__(self) -> str:
        keys = "keys" if self.encrypted else "no keys"
        delay = f", {self.delay:g} ms" if self.delay else ""
        return f"({self.setting}) {self.boards} x {SETTINGS[self.setting]}{delay}, {keys}"


def contestants(
    model: str,
    boards: int,
    *,
    networks: Sequence[str],
    strategies: Sequence[str],
    wires: Sequence[str],
    tiles: Sequence[int] = (1,),
) -> tuple[Contestant, ...]:
    """Return the ways to run a dense network, and what it is decoupled to, on so many boards."""
    found = []
    decoupled = [name for name in networks if NETWORKS[name].model == model]
    for strategy in strategies:
        if strategy == "decoupled":
            groups = max(PRESET_GROUPS, boards)
            found += [
                Contestant(
                    network=name,
                    strategy=strategy,
                    boards=boards,
                    wire=wire,
                    groups=groups,
                    tiles=count,
                )
                for name in decoupled
                if groups == PRESET_GROUPS or NETWORKS[name].width is not None
                for wire in wires
                for count in tiles
            ]
        elif (strategy == "single") == (boards == 1):
            # Nothing is rounded where whole images travel.
            exact = strategy in ("single", "replicas")
            found += [
                Contestant(network=model, strategy=strategy, boards=boards, wire=wire)
                for wire in (("float32",) if exact else wires)
            ]
    return tuple(found)
