# SPDX-License-Identifier: Apache-2.0
"""When a new epoch begins: at once where it is needed, otherwise after the oldest sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.flight import FRUITLESS, POSTPONED, Flight
from decnn_tvm.runtime.transport import MemoryNetwork
from decnn_tvm.runtime.wire import Header, Message, decode, encode
from decnn_tvm.transfers import HOST
from tests.runtime.conftest import CLASSES, IMAGE, make_plan

INPUTS = {"x": np.ones(IMAGE, np.float32)}
OUTPUT = 2
"""The movement of the result."""


class Scene:
    """One device that owns all groups; what it says is up to the test."""

    def __init__(self) -> None:
        self.names, self.assignment = ["device 0"], [(0, 1, 2, 3)]
        self.need = self.desire = ""
        self.epoch, self.replayed = -1, [0]
        self.now, self.results = 0.0, 0
        self.network = MemoryNetwork([HOST, 0])

    def look(self) -> str:
        return self.need

    def delivered(self) -> None:
        self.results += 1

    def wish(self) -> str:
        return self.desire

    def form(self, live: Any, next_sample: int) -> Link:
        self.need = self.desire = ""
        self.epoch, self.replayed = self.epoch + 1, list(live)
        return Link(self.network.transport(HOST), bytes(16), self.epoch, HOST)

    def result(self, sample: int) -> Message:
        header = Header(
            cluster=bytes(16),
            epoch=self.epoch,
            sample=sample,
            movement=OUTPUT,
            source=0,
            target=HOST,
        )
        frames = encode(header, [np.zeros((1, CLASSES), np.float32).tobytes()])
        return decode([bytes(frame) for frame in frames])


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def flight(scene: Scene) -> Flight:
    return Flight(make_plan(), scene, clock=lambda: scene.now)  # type: ignore[arg-type]


def test_a_loss_is_answered_at_once(scene: Scene, flight: Flight) -> None:
    flight.submit(INPUTS)
    scene.need = "device 0 is lost"
    assert flight.advance(None)
    assert scene.epoch == 1 and scene.replayed == [0]


def test_a_wish_waits_for_the_oldest_sample_under_way(scene: Scene, flight: Flight) -> None:
    for _ in range(3):
        flight.submit(INPUTS)
    scene.desire = "device 1 is back"
    assert not flight.advance(None)
    assert flight.advance(scene.result(1)) and scene.epoch == 0
    assert flight.advance(scene.result(0)) and scene.epoch == 1
    assert scene.replayed == [2]
    for sample in (0, 1):
        assert flight.result(sample) is not None
    assert scene.results == 2


def test_a_wish_does_not_wait_for_samples_that_came_later(scene: Scene, flight: Flight) -> None:
    scene.desire = "device 1 is back"
    assert flight.advance(None) and scene.epoch == 1
    flight.submit(INPUTS)
    scene.desire = "device 1 is back"
    assert not flight.advance(None)
    flight.submit(INPUTS)
    assert flight.advance(scene.result(0)) and scene.epoch == 2 and scene.replayed == [1]


def test_a_wish_waits_no_longer_than_that(scene: Scene, flight: Flight) -> None:
    flight.submit(INPUTS)
    scene.desire = "device 1 is back"
    assert not flight.advance(None)
    scene.now = POSTPONED
    assert not flight.advance(None)
    scene.now += 1
    assert flight.advance(None) and scene.epoch == 1 and scene.replayed == [0]


def test_who_comes_and_goes_does_not_keep_samples_from_their_end(
    scene: Scene, flight: Flight
) -> None:
    """Each time it is back, one sample at least is done before the next epoch."""
    for sample in range(3 * FRUITLESS):
        flight.submit(INPUTS)
        scene.need = "device 1 is lost"
        assert flight.advance(None)
        scene.desire = "device 1 is back"
        assert not flight.advance(None)
        assert flight.advance(scene.result(sample))
        assert flight.result(sample) is not None


def test_only_losses_are_fruitless(scene: Scene, flight: Flight) -> None:
    flight.submit(INPUTS)
    for _ in range(3 * FRUITLESS):
        flight.renew("a worker was added")
    for _ in range(FRUITLESS):
        scene.need = "device 1 is lost"
        assert flight.advance(None)
    scene.need = "device 1 is lost"
    with pytest.raises(ClusterError, match=r"10 new epochs gave no result.*device 1 is lost"):
        flight.advance(None)
