# SPDX-License-Identifier: Apache-2.0
"""What a page says of a plan, a refusal, a profile and many devices."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

from decnn_tvm.planning.memory import Memory
from decnn_tvm.planning.planner import Ranking, rank
from decnn_tvm.profiling.profile import Profile, plan_sha256
from decnn_tvm.report.charts import Curve
from decnn_tvm.report.page import DEVICES, Report
from decnn_tvm.simulation import Link
from tests.planning.test_planner import CLOCK, cluster, ranked, small_resnet
from tests.profiles import made_up_profile

CURVES = [Curve("replicas", [(1, 1.0), (2, 2.0)])]


@cache
def two_boards() -> Ranking:
    return ranked(cluster([CLOCK] * 2), goal="throughput")


def page(ranking: Ranking, profile: Profile | None = None) -> str:
    return Report(ranking=ranking, curves=CURVES, profile=profile).html()


def bars(html: str, axis: str) -> list[str]:
    """Return the names of the bars of the picture with this axis."""
    picture = next(p for p in html.split("<svg ") if f'aria-label="{axis}"' in p)
    return re.findall(r'class="name">([^<]*)<', picture)


def test_nothing_measured_is_an_estimate() -> None:
    html = page(two_boards())
    assert "Nothing was measured" in html and "goes, measured" not in html
    assert "Where the computing goes, estimated" in html and html.count("<figure") == 5
    assert "Share of the time of board-0, the busiest" in html


def test_measured_kernels_come_before_the_estimate_of_another_split() -> None:
    html = page(two_boards(), made_up_profile(["board-0", "board-1"]))
    measured = html.index("Where the computing goes, measured")
    assert measured < html.index("Where the computing goes, estimated")
    assert "board-1, the busiest device, in the package of made-up that was profiled" in html
    assert bars(html, "share of the computing time, %")[:3] == [
        "all of stage0",
        "all of stage1",
        "stage0: fused_conv2d_relu",
    ]
    for share in ("75 %", "25 %", "56.2 %", "18.8 %"):
        assert f">{share}</text>" in html


def test_measured_kernels_of_what_is_shown_need_no_estimate() -> None:
    own = plan_sha256(two_boards().best.plan)
    html = page(two_boards(), made_up_profile(["board-0", "board-1"], plan_sha256=own))
    assert "goes, measured" in html and "goes, estimated" not in html


def test_a_refused_plan_is_shown_on_one_device() -> None:
    slow = Link(bytes_per_second=1e6 / 8, latency_seconds=5e-3)
    ranking = ranked(cluster([1.2e9] * 4, slow), goal="latency")
    html = page(ranking)
    assert "Several devices are not worth it." in html
    assert f"board-0 alone takes {1e3 * ranking.single.latency_seconds:.2f} ms" in html
    assert bars(html, "memory, MB") == ["board-0", "one device alone"]
    assert ">all of it</text>" in html and "Best for" not in html


def test_the_devices_that_need_the_most_memory_are_shown() -> None:
    count = DEVICES + 4
    speeds = cluster([CLOCK] * count)
    ranking = rank(
        small_resnet(), speeds, exact=True, wires=("float32",), counts=(count,), goal="throughput"
    )
    best = ranking.best
    assert len(best.ranks) == count
    # The first two and the last two need the least.
    sizes = [1, 1, *[9] * (count - 4), 1, 1]
    memory = tuple(
        Memory(weights=size * 1_000_000, workspace=0, buffers=0, loading=0) for size in sizes
    )
    first = dataclasses.replace(
        ranking.entries[0], estimate=dataclasses.replace(best, memory=memory)
    )
    changed = dataclasses.replace(ranking, entries=(first, *ranking.entries[1:]))
    html = page(changed)
    shown = [f"board-{i}" for i in range(2, count - 2)]
    assert bars(html, "memory, MB") == [*shown, "one device alone"]
    assert f"Of {count} devices the {DEVICES} that need the most." in html
    assert "that need the most" not in page(two_boards())
