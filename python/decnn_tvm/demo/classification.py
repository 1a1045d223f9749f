# SPDX-License-Identifier: Apache-2.0
"""The second part of the demo: a trained decoupled network classifies images over local workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decnn_tvm.compiler import compile_network
from decnn_tvm.demo.data import Array
from decnn_tvm.demo.exact_split import Comparison
from decnn_tvm.demo.shipped_network import FOLDER, MODEL, ModelCard, shipped_card, shipped_network
from decnn_tvm.errors import InputError
from decnn_tvm.labelled_images import ImageData, LabelledImages
from decnn_tvm.package import Package
from decnn_tvm.package_writer import Progress
from decnn_tvm.runtime import LocalCluster
from decnn_tvm.testing.equality import reference_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The answers to some images.

    Attributes
    ----------
    card : ModelCard
        Of the network.
    logits : Comparison
        Of the workers' outputs with ONNX Runtime's on the same network.
    labels : tuple of int
        What the images show.
    movements : tuple of str
        Kind of every movement of the plan, in order.
    throughput : float
        Images per second.
    """

    card: ModelCard
    logits: Comparison
    labels: tuple[int, ...]
    movements: tuple[str, ...]
    throughput: float

    @property
    def answers(self) -> tuple[int, ...]:
        """The class that the workers rank first, for each image."""
        return tuple(int(logits.argmax()) for logits in self.logits.ours)

    @property
    def confidences(self) -> tuple[float, ...]:
        """The probability that the network gives to its answer."""
        return tuple(_softmax(logits.ravel()).max() for logits in self.logits.ours)

    @property
    def right(self) -> int:
        """How many answers are right."""
        return sum(a == b for a, b in zip(self.answers, self.labels, strict=True))


def classify(
    images: LabelledImages,
    folder: Path,
    *,
    workers: int = 4,
    in_flight: int = 4,
    progress: Progress | None = None,
) -> Classification:
    """Split the shipped network over local workers, classify images, compare with ONNX Runtime.

    Parameters
    ----------
    images : LabelledImages
        32 x 32 pixels in three colours, classes of CIFAR-10.
    folder : Path
        Where the package goes.
    workers : int
        Worker processes.
    in_flight : int
        Images under way at once.
    progress : callable, optional
        Told of the compiler's steps.
    """
    card, network = shipped_card(), shipped_network()
    pixels = images.pixels.transpose(0, 3, 1, 2)[:, np.newaxis]
    if pixels.shape[1:] != network.inputs[0].shape:
        raise InputError(
            f"images of {images.pixels.shape[1:]}: expected 32 x 32 pixels in three colours"
        )
    package = compile_network(
        network,
        folder,
        workers=workers,
        image_mean=card.mean,
        image_std=card.std,
        progress=progress,
    )
    samples = [np.ascontiguousarray(image) for image in pixels]
    logits, seconds = _streamed(package, samples, workers, in_flight)
    mean, std = (np.array(v, "float32").reshape(-1, 1, 1) for v in (card.mean, card.std))
    normal = [((image / np.float32(255) - mean) / std).astype("float32") for image in samples]
    return Classification(
        card=card,
        logits=Comparison(
            output=package.plan.outputs[0],
            ours=logits,
            reference=tuple(reference_outputs(FOLDER / MODEL, normal)),
        ),
        labels=tuple(map(int, images.labels)),
        movements=tuple(movement.kind for movement in package.plan.movements),
        throughput=len(samples) / seconds,
    )


def _streamed(
    package: Package, samples: Sequence[Array], workers: int, in_flight: int
) -> tuple[tuple[Array, ...], float]:
    """Return the one output of the package for each sample, and the seconds of the stream."""
    (output,) = package.plan.outputs
    with LocalCluster(workers) as cluster, cluster.deploy(package) as session:
        session.run(samples[0])
        start = time.perf_counter()
        results = list(session.stream(samples, in_flight=in_flight))
        seconds = time.perf_counter() - start
    return tuple(r[output] if isinstance(r, dict) else r for r in results), seconds


def some_test_images(data: ImageData, count: int, source: Path) -> LabelledImages:
    """Return `count` test images, from all over them, at most as many as there are.

    Raises
    ------
    InputError
        The classes are not those of the network.
    """
    classes = shipped_card().classes
    if list(data.classes) not in (classes, [str(i) for i in range(len(classes))]):
        raise InputError(
            f"{source} has the classes {list(data.classes)}; expected CIFAR-10's: {classes}"
        )
    total = len(data.test.labels)
    if total < 2:
        raise InputError(f"{source} has {total} test image; expected several, to compare answers")
    index = np.unique(np.linspace(0, total - 1, min(count, total)).astype("int64"))
    return LabelledImages(pixels=data.test.pixels[index], labels=data.test.labels[index])


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
