# SPDX-License-Identifier: Apache-2.0
"""What is known of a cluster, from its file and from a profile."""

from __future__ import annotations

import dataclasses

from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.planning.memory import IDLE_BYTES
from decnn_tvm.planning.planner import fits, rank
from decnn_tvm.planning.prediction import profiled_machines
from decnn_tvm.planning.speeds import cluster_speeds, target_clock
from decnn_tvm.profiling.profile import Profile
from tests.planning.test_planner import CLOCK, small_resnet
from tests.profiles import made_profile

NAMES = ("board-0", "board-1")


def cluster_file(**options: int) -> ClusterFile:
    return ClusterFile(
        workers=tuple(
            ClusterWorker(name=name, address=f"192.0.2.{i + 1}:9100", **options)
            for i, name in enumerate(NAMES)
        )
    )


def with_workers(profile: Profile, **changes: object) -> Profile:
    workers = tuple(dataclasses.replace(w, **changes) for w in profile.workers)  # type: ignore[arg-type]
    return dataclasses.replace(profile, workers=workers)


def test_memory_has_one_meaning() -> None:
    """A profile has what a session may take, all else what the whole process may."""
    network, profile = small_resnet(), made_profile(dict.fromkeys(NAMES, CLOCK))
    free = cluster_speeds(cluster_file(), with_workers(profile, memory_bytes=None))
    found = rank(network, free, exact=True, wires=("float32",), counts=(1,)).single
    need = max(memory.total for memory in found.memory)
    for spare, expected in ((0, True), (-1, False)):
        measured = cluster_speeds(cluster_file(), with_workers(profile, memory_bytes=need + spare))
        stated = cluster_speeds(cluster_file(memory=IDLE_BYTES + need + spare), profile)
        given = cluster_speeds(cluster_file(), profile, memory=IDLE_BYTES + need + spare)
        for speeds in (measured, stated, given):
            assert speeds.machines.devices[0].memory_bytes == IDLE_BYTES + need + spare
            assert fits(found, speeds) is expected
    machines = profiled_machines(with_workers(profile, memory_bytes=need))
    assert machines.devices[0].memory_bytes == IDLE_BYTES + need


def test_a_worker_without_a_limit() -> None:
    profile = with_workers(made_profile(dict.fromkeys(NAMES, CLOCK)), memory_bytes=None)
    speeds = cluster_speeds(cluster_file(), profile)
    assert all(device.memory_bytes is None for device in speeds.machines.devices)


def test_what_a_profile_does_not_tell_is_said() -> None:
    whole = cluster_speeds(cluster_file(), made_profile(dict.fromkeys(NAMES, CLOCK)))
    assert whole.measured and whole.estimated == ()
    profile = made_profile({"board-0": CLOCK, "board-1": 0.0}, without=(NAMES,))
    part = cluster_speeds(cluster_file(), profile)
    assert not part.measured and part.chosen((0,)).estimated == part.estimated
    assert part.estimated == ("the clock of board-1", "1 of 3 links")
    assert part.clocks[0] == CLOCK and part.clocks[1] == target_clock(part.targets[1])
    nothing = cluster_speeds(cluster_file())
    assert not nothing.measured and nothing.estimated == ()


def test_the_coordinators_port() -> None:
    """Stated, or else measured where that is more than one of its links lets through."""
    profile = made_profile(dict.fromkeys(NAMES, CLOCK))
    fastest = max(link.bytes_per_second for link in profile.links)
    for stated, measured, expected in (
        (None, None, None),
        (None, 3 * fastest, 3 * fastest),
        (None, 0.9 * fastest, None),
        (4e6, None, 5e5),
        (4e6, 3 * fastest, 5e5),
    ):
        cluster = dataclasses.replace(cluster_file(), coordinator_bandwidth=stated)
        seen = dataclasses.replace(profile, coordinator_bytes_per_second=measured)
        assert cluster_speeds(cluster, seen).machines.host.port_bytes_per_second == expected
        if stated is None:
            assert profiled_machines(seen).host.port_bytes_per_second == expected
    stated_alone = dataclasses.replace(cluster_file(), coordinator_bandwidth=4e6)
    assert cluster_speeds(stated_alone).machines.host.port_bytes_per_second == 5e5


def test_cores_that_are_asked_for() -> None:
    one, four = (cluster_speeds(cluster_file(), cores=cores) for cores in (1, 4))
    assert four.clocks[0] > 3 * one.clocks[0]
    # A profile was measured with the cores that it was.
    profile = made_profile(dict.fromkeys(NAMES, CLOCK))
    assert cluster_speeds(cluster_file(), profile, cores=4).clocks == (CLOCK, CLOCK)
