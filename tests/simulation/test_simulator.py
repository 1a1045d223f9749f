# SPDX-License-Identifier: Apache-2.0
"""Against closed forms, worked out by hand, and against the runtime's own engine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import InputError, PartitionError
from decnn_tvm.plan import Indices, Plan, holds, nbytes
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.simulation import Device, Link, Machines, Outcome, simulate
from tests.simulation.conftest import HEADER, exchanging_plan, pipeline_plan

MBPS = 1e6 / 8
INPUT, EXCHANGED, OUTPUT = 16_000 + HEADER, 4_000 + HEADER, 8_000 + HEADER
"""Bytes of a message of `two`: four channels of 1,000 pixels."""
EXCHANGING = exchanging_plan(4, 2, channels=32, pixels=4)
PIPELINE = pipeline_plan((32, 8, 16), pixels=4)


@pytest.fixture(scope="module")
def two() -> Plan:
    return exchanging_plan(2, 1, channels=4, pixels=1000)


def play(
    plan: Plan,
    seconds: Sequence[float],
    link: Link,
    *,
    window: int = 1,
    samples: int = 1,
    device: Device | None = None,
    timeline: bool = False,
) -> Outcome:
    machines = Machines.alike(plan.groups, link, device)
    return simulate(
        plan,
        assign_groups(plan, plan.groups),
        machines,
        lambda _, function: seconds[int(function.removeprefix("stage"))],
        samples=samples,
        window=window,
        timeline=timeline,
    )


def test_one_sample_on_two_devices_takes_what_a_hand_reckons(two: Plan) -> None:
    link = Link(bytes_per_second=100 * MBPS, latency_seconds=100e-6)
    first, second = 5e-3, 7e-3
    m, e, o = (size / link.bytes_per_second for size in (INPUT, EXCHANGED, OUTPUT))
    wire = link.latency_seconds
    # The second device gets its copy of the image after the first, and keeps the first waiting.
    done = [wire + m + first, wire + 2 * m + first]
    ends = [done[1] + wire + e + second, max(done[1], done[0] + wire + e) + second]
    # The coordinator's port takes one result after the other.
    expected = max(ends[0] + wire, ends[1] + wire + o) + o
    outcome = play(two, (first, second), link)
    assert outcome.finished[0] == pytest.approx(expected, rel=1e-12)
    assert outcome.sent_bytes == (EXCHANGED + OUTPUT,) * 2
    assert outcome.host_sent_bytes == 2 * INPUT


def test_a_coordinator_with_a_faster_port_serves_links_at_a_time(two: Plan) -> None:
    link = Link(bytes_per_second=100 * MBPS, latency_seconds=100e-6)
    host = Device(name="coordinator", port_bytes_per_second=1000 * MBPS)
    first, second = 5e-3, 7e-3
    m, e, o = (size / link.bytes_per_second for size in (INPUT, EXCHANGED, OUTPUT))
    wire = link.latency_seconds
    # The second copy of the image leaves after a tenth of the time that the first is on its link.
    done = [wire + m + first, m / 10 + wire + m + first]
    ends = [done[1] + wire + e + second, max(done[1], done[0] + wire + e) + second]
    # Both results come in side by side.
    expected = max(ends) + wire + o
    machines = Machines(devices=(Device(name="device"),) * 2, link=link, host=host)
    outcome = simulate(
        two,
        assign_groups(two, 2),
        machines,
        lambda _, function: {"stage0": first, "stage1": second}[function],
        samples=1,
        window=1,
    )
    assert outcome.finished[0] == pytest.approx(expected, rel=1e-12)
    assert outcome.host_port.sending_seconds == pytest.approx(2 * m / 10)
    assert outcome.ports[0].sending_seconds == pytest.approx(e + o)


def test_a_slower_port_holds_its_links_back(two: Plan) -> None:
    link = Link(bytes_per_second=100 * MBPS, latency_seconds=100e-6)
    host = Device(name="coordinator", port_bytes_per_second=10 * MBPS)
    machines = Machines(devices=(Device(name="device"),) * 2, link=link, host=host)
    outcome = simulate(two, assign_groups(two, 2), machines, lambda *_: 1e-3, samples=1, window=1)
    m, o = (size / link.bytes_per_second for size in (INPUT, OUTPUT))
    # The second device, which waits for nothing but its image, keeps the port busy with its result
    # until that of the first is there too.
    expected = 2 * 10 * m + 2e-3 + 2 * 10 * o + 2 * link.latency_seconds
    assert outcome.finished[0] == pytest.approx(expected, rel=1e-12)


def test_computing_bounds_the_rate(two: Plan) -> None:
    link = Link(bytes_per_second=1e12)
    outcome = play(two, (3e-3, 2e-3), link, window=4, samples=40)
    assert outcome.samples_per_second == pytest.approx(1 / 5e-3, rel=1e-6)


def test_the_coordinators_port_bounds_the_rate(two: Plan) -> None:
    link = Link(bytes_per_second=10 * MBPS)
    outcome = play(two, (1e-6, 1e-6), link, window=8, samples=60)
    assert outcome.samples_per_second == pytest.approx(link.bytes_per_second / (2 * INPUT))


def test_ports_are_busy_with_what_they_send_and_receive(two: Plan) -> None:
    link = Link(bytes_per_second=1e6, latency_seconds=1e-3)
    outcome = play(two, (1e-3, 1e-3), link, window=2, samples=7)
    for port in outcome.ports:
        assert port.sent_bytes == 7 * (EXCHANGED + OUTPUT)
        assert port.received_bytes == 7 * (EXCHANGED + INPUT)
    host = outcome.host_port
    assert (host.sent_bytes, host.received_bytes) == (7 * 2 * INPUT, 7 * 2 * OUTPUT)
    for port in (*outcome.ports, host):
        assert port.sending_seconds == pytest.approx(port.sent_bytes / 1e6)
        assert port.receiving_seconds == pytest.approx(port.received_bytes / 1e6)
    assert host.busy_seconds == host.sending_seconds and host.busy_bytes == host.sent_bytes
    device = outcome.ports[0].of_one(7)
    assert (device.busy_bytes, device.busy_seconds) == (INPUT + EXCHANGED, device.receiving_seconds)


def test_one_sample_at_a_time_hides_nothing(two: Plan) -> None:
    link = Link(bytes_per_second=100 * MBPS, latency_seconds=1e-3)
    alone = play(two, (1e-3, 1e-3), link, samples=8)
    assert alone.samples_per_second == pytest.approx(1 / alone.latency_seconds)
    assert play(two, (1e-3, 1e-3), link, window=4, samples=32).samples_per_second > (
        1.5 * alone.samples_per_second
    )


def test_what_messages_cost_comes_off_the_stages(two: Plan) -> None:
    device = Device(name="slow", seconds_per_message=1e-3, seconds_per_byte=1e-7)
    outcome = play(
        two, (3e-3, 2e-3), Link(bytes_per_second=1e12), window=4, samples=400, device=device
    )
    # An image comes, a part goes, a part comes, one is copied, a result goes.
    sizes = (INPUT, EXCHANGED, EXCHANGED, EXCHANGED - HEADER, OUTPUT)
    busy = 5e-3 + sum(device.message_seconds(size) for size in sizes)
    assert outcome.samples_per_second == pytest.approx(1 / busy, rel=2e-3)
    assert outcome.message_seconds[0] == pytest.approx(400 * (busy - 5e-3))


def test_unequal_devices_wait_for_the_slowest(two: Plan) -> None:
    machines = Machines.alike(2, Link(bytes_per_second=1e12))
    speeds = (1.0, 2.0)
    outcome = simulate(
        two,
        assign_groups(two, 2),
        machines,
        lambda rank, _: 1e-3 * speeds[rank],
        samples=24,
        window=3,
    )
    assert outcome.samples_per_second == pytest.approx(1 / 4e-3, rel=1e-6)
    assert outcome.compute_seconds == pytest.approx((24 * 2e-3, 24 * 4e-3))


def test_a_slow_link_between_two_devices_slows_what_crosses_it(two: Plan) -> None:
    fast, slow = Link(bytes_per_second=1e12), Link(bytes_per_second=1e6)
    machines = Machines(
        devices=(Device(name="a"), Device(name="b")), link=fast, links={(1, 0): slow}
    )
    outcome = simulate(two, assign_groups(two, 2), machines, lambda *_: 0.0, samples=1, window=1)
    assert outcome.finished[0] == pytest.approx(EXCHANGED / 1e6, rel=1e-3)


def test_memory_grows_with_the_window_and_is_freed(two: Plan) -> None:
    # The input fills the ports, so that whole images queue up where computing is slow.
    link = Link(bytes_per_second=1e9)
    small = play(two, (1e-3, 1e-3), link, window=1, samples=6)
    large = play(two, (1e-3, 1e-3), link, window=3, samples=12)
    # While a stage runs, its input and its output are there: an image, then a half of each side.
    assert small.buffer_bytes[0] >= 16_000 + 8_000
    assert large.buffer_bytes[0] >= small.buffer_bytes[0] + 2 * 16_000


@pytest.mark.parametrize(
    ("shares", "most"),
    [((1, 1, 1), (24, 32, 40)), ((2, 1), (32, 40)), ((1, 2), (24, 44)), ((3,), (40,))],
)
def test_a_tensor_under_two_names_is_held_once_and_freed(
    shares: tuple[int, ...], most: tuple[int, ...]
) -> None:
    """Stages on one device hand over a tensor as it is, which the last of them frees."""
    plan = pipeline_plan((3, 5, 2), pixels=1000)
    for window, samples in ((1, 5), (4, 24)):
        outcome = simulate(
            plan,
            assign_groups(plan, len(shares), shares),
            Machines.alike(len(shares), Link(bytes_per_second=7e6, latency_seconds=1.3e-4)),
            lambda _, function: (3.1e-3, 2.3e-3, 4.7e-3)[int(function.removeprefix("stage"))],
            samples=samples,
            window=window,
            timeline=True,
        )
        counted = most_held(plan, assign_groups(plan, len(shares), shares), outcome)
        assert outcome.buffer_bytes == counted
        if window == 1:
            # In kB: x and a0 are 12, a1 is 20, a2 is 8. A stage has its inputs and its output, and
            # beside a0 for stage1 may lie the one that came for stage2.
            assert counted == tuple(1000 * size for size in most)
        else:
            assert sum(counted) > 1000 * sum(most)


def most_held(plan: Plan, assignment: Sequence[Indices], outcome: Outcome) -> tuple[int, ...]:
    """Count on the timeline what each device of a pipeline has at most between its stages.

    A tensor is there from when it is computed or has come until the last stage that reads it ends,
    that moment included; one that a later stage on the device reads under another name is one.
    """
    most = []
    for rank, groups in enumerate(assignment):
        own = {v.name for v in plan.values if holds(v.placement, groups)}
        first = {m.target: m.source for m in plan.movements if {m.source, m.target} <= own}
        spans: dict[tuple[int, str], list[float]] = {}
        events = [e for e in outcome.timeline if e.rank == rank and e.kind != "send"]
        for event in sorted(events, key=lambda event: event.end):
            stage = next((s for s in plan.stages if s.function == event.stage), None)
            made = stage.outputs if stage is not None else (event.stage.split(" -> ")[1],)
            for name in made:
                spans[event.sample, name] = [event.end, event.end]
            for name in stage.inputs if stage is not None else ():
                spans[event.sample, first.get(name, name)][1] = event.end
        sizes = {value.name: nbytes(value, 1) for value in plan.values}
        most.append(
            max(
                sum(sizes[name] for (_, name), (a, b) in spans.items() if a <= moment <= b)
                for moment, _ in spans.values()
            )
        )
    return tuple(most)


def test_the_timeline_adds_up(two: Plan) -> None:
    outcome = play(
        two, (2e-3, 1e-3), Link(bytes_per_second=1e8), window=2, samples=10, timeline=True
    )
    stages = [event for event in outcome.timeline if event.kind == "compute"]
    assert len(stages) == 2 * 2 * 10
    assert sum(e.end - e.start for e in stages) == pytest.approx(sum(outcome.compute_seconds))
    sent = [event for event in outcome.timeline if event.kind == "send" and event.rank == 0]
    assert len(sent) == 2 * 10
    assert max(event.end for event in outcome.timeline) == pytest.approx(max(outcome.finished))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(
    ("plan", "shares"),
    [
        *((EXCHANGING, shares) for shares in ((1, 1, 1, 1), (2, 1, 1), (4,))),
        *((PIPELINE, shares) for shares in ((1, 1, 1), (2, 1), (1, 2), (3,))),
    ],
)
def test_devices_do_what_the_runtime_does(plan: Plan, shares: tuple[int, ...], window: int) -> None:
    ran: dict[int, list[str]] = {rank: [] for rank in range(len(shares))}

    def runner(rank: int) -> object:
        def run(function: str, _: Sequence[Array]) -> list[Array]:
            stage = next(stage for stage in plan.stages if stage.function == function)
            ran[rank].append(function)
            values = [plan.value(name) for name in stage.outputs]
            return [np.zeros(v.physical_shape(shares[rank]), v.dtype) for v in values]

        return run

    with InProcessCluster(len(shares)) as cluster:
        session = cluster.start(plan, runner, shares=shares)  # type: ignore[arg-type]
        images = [np.zeros(plan.value("x").shape, np.float32)] * 6
        list(session.stream(images, in_flight=window))
        sent = tuple(sum(stats.sent_bytes.values()) for stats in session.stats())
        host_sent = sum(session.sent_bytes.values())
    outcome = simulate(
        plan,
        assign_groups(plan, len(shares), shares),
        Machines.alike(len(shares), Link(bytes_per_second=math.inf)),
        lambda *_: 1.0,
        samples=6,
        window=window,
        timeline=True,
    )
    for rank, functions in ran.items():
        events = [e.stage for e in outcome.timeline if (e.kind, e.rank) == ("compute", rank)]
        assert events == functions
    assert (outcome.sent_bytes, outcome.host_sent_bytes) == (sent, host_sent)


def test_a_thousand_devices() -> None:
    plan = exchanging_plan(1000, 1, channels=2000, pixels=4)
    outcome = play(plan, (1e-3,) * 2, Link(bytes_per_second=1e9), window=2, samples=4)
    # A message is three events at most, a stage two.
    messages = 1000 * 2 + 2000
    assert outcome.events <= 4 * (3 * messages + 2 * 2 * 1000)
    assert outcome.finished[-1] > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [({"samples": 0}, "samples=0"), ({"window": 0}, "window=0")],
)
def test_nothing_to_simulate_is_refused(two: Plan, change: dict[str, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        play(two, (0.0, 0.0), Link(bytes_per_second=1.0), **change)  # type: ignore[arg-type]


def test_machines_must_fit_the_plan(two: Plan) -> None:
    link = Link(bytes_per_second=1.0)
    with pytest.raises(InputError, match="3 machines for 2 devices"):
        simulate(
            two, assign_groups(two, 2), Machines.alike(3, link), lambda *_: 0.0, samples=1, window=1
        )
    with pytest.raises(PartitionError, match="exactly one device"):
        simulate(two, ((0,),), Machines.alike(1, link), lambda *_: 0.0, samples=1, window=1)
    with pytest.raises(InputError, match="more than 0"):
        Link(bytes_per_second=0.0)
    with pytest.raises(InputError, match="seconds_per_byte is nan"):
        Device(name="a", seconds_per_byte=float("nan"))
