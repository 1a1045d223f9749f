# SPDX-License-Identifier: Apache-2.0
"""Five planted faults, each found, named, and given a remedy; and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from decnn_tvm.cli.show_report import show_report
from decnn_tvm.cluster_file import ClusterFile, ClusterLink, ClusterWorker
from decnn_tvm.doctor.cluster_check import check_cluster
from decnn_tvm.doctor.findings import Report
from decnn_tvm.doctor.link_checks import judge_links, measured_links
from decnn_tvm.errors import InputError
from decnn_tvm.runtime.probe import LinkSpeed
from decnn_tvm.testing.planted_faults import SLOW_RATE, faulty_cluster


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    with faulty_cluster(tmp_path_factory.mktemp("cluster")) as faulty:
        yield check_cluster(faulty.file, route=faulty.route)


@pytest.mark.parametrize(
    ("subject", "check", "detail", "remedy"),
    [
        ("closed", "reachable", "Connection refused", "Start `decnn worker --host 127.0.0.1"),
        ("foreign", "keys", "no TLS connection", "decnn worker --keys"),
        (
            "old",
            "versions",
            "apache-tvm 0.26.0, this machine: 0.27",
            "pip install apache-tvm==0.27",
        ),
        ("plain", "processor", "lacks CPU features", "Name what the machine is"),
        ("far -> coordinator", "link", "slow: ", "Look at the cable"),
        ("coordinator -> far", "link", "slow: ", "state the link"),
    ],
)
def test_a_fault_is_found(
    report: Report, subject: str, check: str, detail: str, remedy: str
) -> None:
    (found,) = [f for f in report.findings if (f.subject, f.check) == (subject, check)]
    assert found.verdict in ("failure", "warning")
    assert detail in found.detail and remedy in found.remedy
    assert "\n" not in found.detail + found.remedy


def test_nothing_else_is_found(report: Report) -> None:
    bad = {(f.subject, f.check) for f in report.findings if f.verdict == "failure"}
    assert bad == {
        ("closed", "reachable"),
        ("foreign", "keys"),
        ("old", "versions"),
        ("plain", "processor"),
    }
    sound = {f.check for f in report.findings if f.subject == "sound" and f.verdict == "ok"}
    assert sound == {"reachable", "keys", "versions", "processor", "memory", "clock"}


def test_all_links_are_measured(report: Report) -> None:
    machines = ("coordinator", "sound", "far", "old", "plain")
    assert set(report.links) == {(a, b) for a in machines for b in machines if a != b}
    assert report.links["far", "coordinator"].bandwidth < 8 * SLOW_RATE
    assert report.links["sound", "far"].bandwidth > 16 * SLOW_RATE
    links = {frozenset(link.between or ()): link for link in measured_links(report.links)}
    assert len(links) == 10
    assert links[frozenset(("coordinator", "far"))].bandwidth < 8 * SLOW_RATE


def test_the_report_for_people(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(report)
    shown = capsys.readouterr().out
    assert "FAILED closed, reachable: " in shown and "\n  -> Start `decnn worker" in shown
    assert "bandwidth, Mb/s" in shown and "latency, ms one way" in shown


def test_links_are_judged_by_the_file_or_by_the_others() -> None:
    def verdicts(*links: ClusterLink, **speeds: LinkSpeed) -> list[str]:
        file = ClusterFile(workers=(ClusterWorker(name="a", address="h:1"),), links=links)
        named = {("a", other): speed for other, speed in speeds.items()}
        return [finding.verdict for finding in judge_links(named, file)]

    fast = LinkSpeed(latency=1e-4, bandwidth=940e6)
    slow = LinkSpeed(latency=1e-4, bandwidth=94e6)
    late = LinkSpeed(latency=5e-3, bandwidth=940e6)
    stated = ClusterLink(bandwidth=1e9, latency=2e-4)
    assert verdicts(x=slow) == ["ok"]  # nothing to compare it with
    assert verdicts(x=slow, y=fast, z=fast) == ["warning", "ok", "ok"]
    assert verdicts(stated, x=slow, y=late, z=fast) == ["failure", "failure", "ok"]


def test_beyond_loopback_takes_keys() -> None:
    cluster = ClusterFile(workers=(ClusterWorker(name="a", address="192.0.2.1:7"),))
    with pytest.raises(InputError, match="--insecure"):
        check_cluster(cluster)
