# SPDX-License-Identifier: Apache-2.0
"""Networks and images for benchmarks that stream, with the answers that ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, save_onnx
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.runtime import Session
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import Array, random_inputs, reference_outputs

TOLERANCE = 1e-4


@dataclass
class Streaming:
    """A package, a few distinct images, and what is checked of the results.

    Attributes
    ----------
    package : Package
        Of a decoupled network.
    images, reference : list of array
        Images in turn, and ONNX Runtime's answers.
    ended : bool
        Whether `source` gives no more images.
    submitted, delivered, wrong : int
        Images taken, results seen, and results that differ from the reference.
    largest : float
        The largest error so far, relative to the reference's largest magnitude.
    """

    package: Package
    images: list[Array]
    reference: list[Array]
    ended: bool = False
    submitted: int = 0
    delivered: int = 0
    wrong: int = 0
    largest: float = 0.0
    undisturbed: list[Array] = field(default_factory=list)
    same_bits: int = 0

    def begin(self, session: Session) -> None:
        """Note what a session answers undisturbed, and count from nothing again."""
        results = session.stream(self.images)
        self.undisturbed = [y for y in results if isinstance(y, np.ndarray)]
        self.ended, self.submitted, self.delivered, self.wrong = False, 0, 0, 0
        self.same_bits, self.largest = 0, 0.0

    def source(self) -> Iterator[Array]:
        """Yield images in turn until `ended`."""
        while not self.ended:
            image = self.images[self.submitted % len(self.images)]
            self.submitted += 1
            yield image

    def check(self, output: object) -> None:
        """Compare the next result; images in turn have different answers, so order counts."""
        assert isinstance(output, np.ndarray)
        index = self.delivered % len(self.images)
        expected = self.reference[index]
        error = float(np.abs(output - expected).max() / np.abs(expected).max())
        self.largest = max(self.largest, error)
        self.wrong += error > TOLERANCE
        if self.undisturbed:
            self.same_bits += bool(np.array_equal(output, self.undisturbed[index]))
        self.delivered += 1


def small_network(folder: Path, groups: int = 4) -> Streaming:
    """Return ResNet-18 for 32x32 images, decoupled, some 20 million multiplications an image."""
    network = decouple(
        load(zoo.resnet(18, image_size=32, classes=100), name="resnet18-32"),
        groups=groups,
        width=1.5,
        weights="fresh",
    )
    return _prepare(network, folder, (1, 3, 32, 32))


def decoupled_resnet50(folder: Path) -> Streaming:
    """Return ResNet-50 x1.75 for 224x224 images."""
    network = decouple(
        load(zoo.resnet(50), name="resnet50"), preset="resnet50-x1.75", weights="fresh"
    )
    return _prepare(network, folder, (1, 3, 224, 224))


def _prepare(network: Network, folder: Path, shape: tuple[int, ...]) -> Streaming:
    save_onnx(network, folder / "network.onnx")
    package = compile_network(network, folder / "network.pkg")
    images = random_inputs(shape, 8)
    reference = reference_outputs(folder / "network.onnx", images)
    for a, b in zip(reference, [*reference[1:], reference[0]], strict=True):
        if np.abs(a - b).max() < 100 * TOLERANCE * np.abs(a).max():
            raise AssertionError("neighbouring images have like answers: order would not show")
    return Streaming(package, images, reference)
