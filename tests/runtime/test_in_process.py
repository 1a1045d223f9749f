# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from decnn_tvm.errors import ClusterError, InputError, PackageError, PartitionError
from decnn_tvm.manifest import Manifest
from decnn_tvm.plan import Plan
from decnn_tvm.runtime.executor import StageRunner
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.machine import choose_target, this_machine
from decnn_tvm.runtime.statistics import TimelineEvent
from decnn_tvm.runtime.weights import DeviceWeights


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_outputs_equal_the_reference(hand_net, count: int) -> None:
    samples = hand_net.samples(3)
    with InProcessCluster(count) as cluster, cluster.deploy(hand_net.package) as session:
        for x in samples:
            hand_net.check(x, session.run(x))
        for x, y in zip(samples, session.stream(samples, in_flight=2), strict=True):
            hand_net.check(x, y)


def test_uneven_shares(hand_net) -> None:
    x = hand_net.samples(1)[0]
    with InProcessCluster(2) as cluster:
        session = cluster.deploy(hand_net.package, shares=[1, 3])
        hand_net.check(x, session.run(x))
        assert [s.groups for s in session.stats()] == [(0,), (1, 2, 3)]


def test_a_dropped_exchange_is_noticed(hand_net) -> None:
    plan: Plan = hand_net.package.plan
    broken = dataclasses.replace(plan, movements=(plan.movements[0], plan.movements[2]))
    with pytest.raises(PackageError, match="'b' is needed"):
        InProcessCluster(2).start(broken, lambda rank: lambda function, inputs: [])


def test_a_wrong_exchange_changes_the_result(hand_net) -> None:
    plan: Plan = hand_net.package.plan
    b = plan.value("b")
    swapped = dataclasses.replace(b.placement, groups=b.placement.groups[::-1])
    values = tuple(
        dataclasses.replace(v, placement=swapped) if v.name == "b" else v for v in plan.values
    )
    wrong = dataclasses.replace(plan, values=values)
    package = hand_net.package

    def load(rank: int) -> StageRunner:
        groups = ((0, 1), (2, 3))[rank]
        path = package.file(package.library("generic", 2))
        return StageLibrary(path, plan, DeviceWeights(package, groups))

    x = hand_net.samples(1)[0]
    with pytest.raises(AssertionError):
        hand_net.check(x, InProcessCluster(2).start(wrong, load).run(x))
    hand_net.check(x, InProcessCluster(2).start(plan, load).run(x))


def test_back_pressure_takes_no_sample_without_room(hand_net) -> None:
    taken = 0
    samples = hand_net.samples(8)

    def source():
        nonlocal taken
        for x in samples:
            taken += 1
            yield x

    with InProcessCluster(2) as cluster:
        stream = cluster.deploy(hand_net.package).stream(source(), in_flight=3)
        assert taken == 0
        for done, (x, y) in enumerate(zip(samples, stream, strict=True), start=1):
            hand_net.check(x, y)
            assert taken <= done + 2


def test_an_abandoned_stream_leaves_the_session_usable(hand_net) -> None:
    samples = hand_net.samples(6)
    with InProcessCluster(3) as cluster:
        session = cluster.deploy(hand_net.package)
        stream = session.stream(samples, in_flight=4)
        hand_net.check(samples[0], next(stream))
        stream.close()
        hand_net.check(samples[5], session.run(samples[5]))


def test_more_workers_than_groups(hand_net) -> None:
    message = "decoupled into G=4 channel groups, so at most 4 workers"
    with pytest.raises(PartitionError, match=message):
        InProcessCluster(5).deploy(hand_net.package)


@pytest.mark.parametrize("shares", [[4], [0, 4], [2, 3], [1, 1, 2]])
def test_shares_that_do_not_fit(hand_net, shares: list[int]) -> None:
    with pytest.raises(PartitionError, match="shares"):
        InProcessCluster(2).deploy(hand_net.package, shares=shares)


def test_inputs_are_checked(hand_net) -> None:
    x = hand_net.samples(1)[0]
    with InProcessCluster(1) as cluster:
        session = cluster.deploy(hand_net.package)
        hand_net.check(x, session.run({"x": x}))
        with pytest.raises(InputError, match="expected \\['x'\\]"):
            session.run({"image": x})
        with pytest.raises(InputError, match=r"shape \(1, 3, 6, 5\)"):
            session.run(x[..., :-1])
        with pytest.raises(InputError, match="float64; expected float32"):
            session.run(x.astype(np.float64))
        with pytest.raises(InputError, match="list"):
            session.run(x.tolist())
        bad = x.copy()
        bad[0, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match="NaN"):
            session.run(bad)
        assert session.run(bad, nan="allow").shape == (1, 5)
        with pytest.raises(InputError, match="'ignore'"):
            session.run(x, nan="ignore")
        for wrong in (0, 1025, "4", 2.0):
            with pytest.raises(InputError, match="expected a number, 1 to 1024"):
                session.stream([x], in_flight=wrong)


def test_a_closed_session_says_so(hand_net) -> None:
    session = InProcessCluster(1).deploy(hand_net.package)
    session.close()
    with pytest.raises(ClusterError, match="closed"):
        session.run(hand_net.samples(1)[0])


def test_stats_count_bytes(hand_net) -> None:
    with InProcessCluster(4) as cluster:
        session = cluster.deploy(hand_net.package)
        for x in session.stream(hand_net.samples(3)):
            assert x.shape == (1, 5)
        for stats in session.stats():
            # One channel of 36 floats to each of three peers, and a header each.
            assert stats.sent_bytes["a -> b"] == 3 * 3 * (36 * 4 + 64)
            assert stats.sent_bytes["p -> y"] == 3 * (5 * 4 + 64)
            assert stats.samples == 3
            assert stats.weight_bytes == 4 * (4 * 27 + 4 * 36 + 5 * 4 + 5)
            assert stats.images == 3
            assert stats.sent_bytes_per_image == 3 * (36 * 4 + 64) + (5 * 4 + 64)
            assert stats.compute_seconds_per_image == stats.compute_seconds / 3
        assert len(session.timeline()) == 3 * 2 * 4
        for rank in range(4):
            check_timeline(session.timeline(kinds=("compute", "wait", "send", "receive")), rank)


def check_timeline(events: list[TimelineEvent], rank: int) -> None:
    """One thread's intervals do not overlap, and all messages of three samples are there."""
    own = [event for event in events if event.rank == rank]
    assert all(a.end <= b.start for a, b in itertools.pairwise(own))
    for sample in range(3):
        seen = Counter((e.kind, e.stage) for e in own if e.sample == sample and e.kind != "wait")
        assert seen == {
            ("receive", "x -> x_all"): 1,
            ("compute", "stage0"): 1,
            ("send", "a -> b"): 3,
            ("receive", "a -> b"): 3,
            ("compute", "stage1"): 1,
            ("send", "p -> y"): 1,
        }


def test_target_and_versions_must_fit(hand_net) -> None:
    manifest: Manifest = hand_net.package.manifest
    here = this_machine()
    assert choose_target(manifest, here, "w", None) == "generic"
    demanding = dataclasses.replace(manifest.targets["generic"], features=here.features[:2])
    both = {**manifest.targets, "demanding": demanding}
    two = dataclasses.replace(manifest, targets=both)
    assert choose_target(two, here, "w", None) == "demanding"
    assert choose_target(two, dataclasses.replace(here, features=()), "w", None) == "generic"
    with pytest.raises(PackageError, match="not for 'pi'"):
        choose_target(manifest, here, "w", "pi")
    with pytest.raises(PackageError, match=r"a .* machine"):
        choose_target(manifest, dataclasses.replace(here, machine="riscv64"), "w", None)
    needy = dataclasses.replace(manifest.targets["generic"], features=("teleport",))
    with pytest.raises(PackageError, match="teleport"):
        choose_target(dataclasses.replace(manifest, targets={"generic": needy}), here, "w", None)
    old = dataclasses.replace(here, versions={**here.versions, "apache-tvm": "0.1"})
    with pytest.raises(PackageError, match=r"apache-tvm .* \(worker: 0\.1\)"):
        choose_target(manifest, old, "w", None)
