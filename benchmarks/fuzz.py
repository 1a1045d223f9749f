# SPDX-License-Identifier: Apache-2.0
"""Bad messages against a cluster at work: crashes, wrong results and memory, which must be none.

Two workers stream a small network, first without keys, then with keys, while random, mutated,
truncated, oversized, recorded and foreign messages go to both planes of both workers over loopback.
Every result is compared to the bit with that of the same sample before, and those with ONNX
Runtime's. The seed decides the bytes and their order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, parser, progress, report
from decnn_tvm import LocalCluster, Package, compile, decouple, load, save_onnx
from decnn_tvm.keys import make_keys
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.siege import STEADFAST, Toll, Witness, besiege

WORKERS = 2
GROWTH_MB = 32.0
"""What memory may grow by after the first tenth of the messages, in MB."""
COLUMNS = (
    "keys",
    "what",
    "messages",
    "refused",
    "crashes",
    "results",
    "wrong",
    "growth MB",
    "descriptors",
    "threads",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser("benchmarks.fuzz", __doc__ or "")
    options.add_argument("--messages", type=int, default=100_000, help="how many (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of bytes and order (%(default)s)")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_rows(Path(folder), chosen.messages, chosen.seed))
    report(f"{chosen.messages} bad messages", rows, _summary(rows, chosen.messages), chosen.json)


def _rows(folder: Path, messages: int, seed: int) -> Iterator[dict[str, Any]]:
    for name in ("own", "other"):
        make_keys(folder / name)
    network = decouple(load(zoo.small("resnet18")), groups=4)
    save_onnx(network, folder / "net.onnx")
    package = compile(network, folder / "net.pkg", workers=WORKERS)
    strangers = (folder / "own/coordinator", folder / "other/coordinator")
    for keyed in (False, True):
        yield from _siege(package, folder, messages // 2, seed, strangers if keyed else None)


def _siege(
    package: Package, folder: Path, messages: int, seed: int, strangers: tuple[Path, Path] | None
) -> Iterator[dict[str, Any]]:
    plan = package.plan
    samples = random_inputs(plan.value(plan.inputs[0]).shape)
    keys = None if strangers is None else folder / "own"
    with LocalCluster(WORKERS, keys=keys) as cluster:
        session = cluster.deploy(package, policy=STEADFAST)
        with session, Witness(session, samples) as witness:
            assert_logits_match(witness.expected, reference_outputs(folder / "net.onnx", samples))
            counts, tolls = besiege(cluster, session, messages, seed, strangers, progress)
        yield from _report(counts, tolls, witness, "no" if keys is None else "yes")


def _report(
    counts: dict[str, int], tolls: Sequence[Toll], witness: Witness, keys: str
) -> Iterator[dict[str, Any]]:
    for attack, count in counts.items():
        yield {**dict.fromkeys(COLUMNS), "keys": keys, "what": attack, "messages": count}
    yield {
        "keys": keys,
        "what": "both workers, afterwards",
        "messages": None,
        "refused": sum(toll.refused for toll in tolls),
        "crashes": sum(not toll.alive for toll in tolls) + bool(witness.error),
        "results": witness.count,
        "wrong": witness.wrong,
        "growth MB": max(toll.memory_growth for toll in tolls) / 1e6,
        "descriptors": max(toll.descriptor_growth for toll in tolls),
        "threads": max(toll.thread_growth for toll in tolls),
    }


def _summary(rows: Sequence[dict[str, Any]], messages: int) -> dict[str, Figure]:
    ends = [row for row in rows if row["results"] is not None]
    return {
        "messages": Figure(float(sum(row["messages"] or 0 for row in rows)), 0.99 * messages),
        "crashes": Figure(float(sum(row["crashes"] for row in ends)), 0.0, at_most=True),
        "wrong outputs": Figure(float(sum(row["wrong"] for row in ends)), 0.0, at_most=True),
        "outputs meanwhile": Figure(float(sum(row["results"] for row in ends)), 100.0),
        "memory growth, MB": Figure(max(r["growth MB"] for r in ends), GROWTH_MB, at_most=True),
        "descriptor growth": Figure(
            float(max(row["descriptors"] for row in ends)), 0.0, at_most=True
        ),
        "thread growth": Figure(float(max(row["threads"] for row in ends)), 0.0, at_most=True),
    }


if __name__ == "__main__":
    main()
