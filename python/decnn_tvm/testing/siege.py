# SPDX-License-Identifier: Apache-2.0
"""A session at work while strangers send bad messages to its workers, and what it does to them."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.session import Session
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing.attackers import Attack, listening_ports
from decnn_tvm.testing.repertoire import attacks_with_keys, attacks_without_keys, valid_message

WARM_UP = 0.1
"""Share of the messages after which memory is measured first: what caches take is there then."""
STEADFAST = Policy(beat=2.0, silence=10.0, takeover=False, rebalance=False)
"""Every worker keeps its groups, so that results are equal to the bit however busy the machine is;
the loss of one ends the session."""
SETTLE = 30.0
"""Seconds that a worker has to drop the last connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What one worker is like after a siege, and before it."""

    process_id: int
    alive: bool
    memory_growth: int
    descriptor_growth: int
    thread_growth: int
    refused: int


class Witness:
    """Computes samples all the time and compares each result with the expected one, to the bit.

    Groups that change hands change the order of sums: deploy with `STEADFAST`.
    """

    def __init__(self, session: Session, samples: Sequence[Array]) -> None:
        self._session, self._samples = session, samples
        self.expected = [np.asarray(session.run(x)).copy() for x in samples]
        self.count = self.wrong = 0
        self.error = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _work(self) -> None:
        inputs = itertools.takewhile(
            lambda _: not self._stopping.is_set(), itertools.cycle(self._samples)
        )
        try:
            results = self._session.stream(inputs, in_flight=2)
            for result, expected in zip(results, itertools.cycle(self.expected), strict=False):
                self.count += 1
                self.wrong += not np.array_equal(np.asarray(result), expected)
        except ClusterError as error:
            self.error = str(error)


def besiege(
    cluster: LocalCluster,
    session: Session,
    messages: int,
    seed: int,
    strangers: tuple[Path, Path] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, int], list[Toll]]:
    """Send `messages` bad messages to the workers of a session.

    Parameters
    ----------
    cluster, session
        Who is attacked.
    messages : int
        How many, shared out among the attacks and workers.
    seed : int
        Of the messages' bytes and their order.
    strangers : tuple of path, optional
        For a cluster with keys: its coordinator's folder, and that of another cluster.
    progress : callable
        Is told how far it is.

    Returns
    -------
    dict of str to int
        Messages by attack.
    list of Toll
        By worker.
    """
    rng = random.Random(seed)
    with contextlib.ExitStack() as ends:
        counts, plan = _plan(cluster, valid_message(session, rng), messages, rng, ends, strangers)
        first = int(WARM_UP * len(plan))
        _attack(plan[:first], progress)
        before = _settled(cluster, None)
        _attack(plan[first:], progress)
    return counts, _tolls(cluster, before, _settled(cluster, before))


def _plan(
    cluster: LocalCluster,
    valid: Sequence[bytes],
    messages: int,
    rng: random.Random,
    ends: contextlib.ExitStack,
    strangers: tuple[Path, Path] | None,
) -> tuple[dict[str, int], list[Attack]]:
    """Return how often each attack comes, and all of them in a random order."""
    counts: dict[str, int] = {}
    plan: list[Attack] = []
    for worker, process_id in zip(cluster.workers, cluster.process_ids, strict=True):
        control = int(worker.address.rpartition(":")[2])
        (data,) = listening_ports(process_id) - {control}
        attacks = (
            attacks_without_keys(control, data, valid, rng, ends)
            if strangers is None
            else attacks_with_keys(control, data, valid, rng, *strangers)
        )
        for name, (share, attack) in attacks.items():
            count = max(1, round(share * messages / len(cluster.workers)))
            plan += [attack] * count
            counts[name] = counts.get(name, 0) + count
    rng.shuffle(plan)
    return counts, plan


def _attack(plan: Sequence[Attack], progress: Callable[[str], None]) -> None:
    for index, attack in enumerate(plan):
        attack()
        if index % 5000 == 4999:
            progress(f"{index + 1} of {len(plan)} messages")


Look = tuple[int, int, int, int]


def _settled(cluster: LocalCluster, before: Sequence[Look] | None) -> list[Look]:
    """Look at the workers once they have dropped the last connections."""
    deadline = time.monotonic() + SETTLE
    looks = [_look(cluster, rank) for rank in range(len(cluster.workers))]
    while time.monotonic() < deadline:
        time.sleep(0.5)
        last, looks = looks, [_look(cluster, rank) for rank in range(len(cluster.workers))]
        steady = all(a[1:3] == b[1:3] for a, b in zip(last, looks, strict=True))
        grown = before and any(a[1] > b[1] for a, b in zip(looks, before, strict=True))
        if steady and not grown:
            break
    return looks


def _look(cluster: LocalCluster, rank: int) -> Look:
    """Return resident bytes, descriptors, threads and refused messages and clients of a worker."""
    process_id = cluster.process_ids[rank]
    if not psutil.pid_exists(process_id):
        return (0, 0, 0, 0)
    process, seen = psutil.Process(process_id), cluster.workers[rank].observe()
    return (
        process.memory_info().rss,
        process.num_fds(),
        process.num_threads(),
        seen.refused_messages + seen.refused_clients,
    )


def _tolls(cluster: LocalCluster, before: Sequence[Look], after: Sequence[Look]) -> list[Toll]:
    return [
        Toll(
            process_id=process_id,
            alive=bool(new[0]),
            memory_growth=new[0] - old[0],
            descriptor_growth=new[1] - old[1],
            thread_growth=new[2] - old[2],
            refused=new[3],
        )
        for process_id, old, new in zip(cluster.process_ids, before, after, strict=True)
    ]
