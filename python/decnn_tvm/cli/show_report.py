# SPDX-License-Identifier: Apache-2.0
"""Findings as tables: a line for each machine, its links as matrices, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from decnn_tvm.cli.tables import print_table

if TYPE_CHECKING:
    from decnn_tvm.doctor.findings import Finding, Pair, Report
    from decnn_tvm.runtime.probe import LinkSpeed

MARKS = {"ok": "ok", "warning": "warning", "failure": "FAILED"}


def show_report(report: Report) -> None:
    """Print all findings."""
    show_findings("machines", [f for f in report.findings if f.check != "link"])
    if report.links:
        _show_matrix("bandwidth, Mb/s", report.links, lambda speed: f"{speed.bandwidth / 1e6:.4g}")
        _show_matrix(
            "latency, ms one way", report.links, lambda speed: f"{speed.latency * 1e3:.2f}"
        )
    bad = [f for f in report.findings if f.check == "link" and f.verdict != "ok"]
    show_problems([*(f for f in report.findings if f.check != "link"), *bad])


def show_findings(title: str, findings: Sequence[Finding]) -> None:
    """Print a line for each finding."""
    rows = [(f.subject, f.check, MARKS[f.verdict], f.detail) for f in findings]
    print_table(title, ("machine", "check", "", "found"), rows, text=4)


def show_lines(findings: Sequence[Finding]) -> None:
    """Print a line for each finding, and its remedy; boards have nothing that makes tables."""
    for finding in findings:
        print(f"{MARKS[finding.verdict]:8} {finding.check}: {finding.detail}")
        if finding.remedy:
            print(f"         -> {finding.remedy}")


def show_problems(findings: Sequence[Finding]) -> None:
    """Print what is wrong and what to do about it, in full."""
    for finding in findings:
        if finding.verdict != "ok":
            print(f"{MARKS[finding.verdict]} {finding.subject}, {finding.check}: {finding.detail}")
            if finding.remedy:
                print(f"  -> {finding.remedy}")


def _show_matrix(
    title: str, links: Mapping[Pair, LinkSpeed], show: Callable[[LinkSpeed], str]
) -> None:
    names = list(dict.fromkeys(name for pair in links for name in pair))
    rows = [
        (
            source,
            *(show(links[source, target]) if (source, target) in links else "" for target in names),
        )
        for source in names
    ]
    print_table(title, ("from \\ to", *names), rows)
