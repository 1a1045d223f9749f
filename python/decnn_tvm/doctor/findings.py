# SPDX-License-Identifier: Apache-2.0
"""What a check found: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from decnn_tvm.runtime.probe import LinkSpeed

Verdict = Literal["ok", "warning", "failure"]
OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"

Pair = tuple[str, str]
"""Names of a sender and a receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one machine, or of one link.

    Attributes
    ----------
    subject
        Whom it is about: a worker's name, or ``A -> B``.
    check
        What was looked at.
    verdict
        What it means; a cluster works with warnings.
    detail
        What was found.
    remedy
        What to do about it.
    """

    subject: str
    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings on a cluster.

    Attributes
    ----------
    findings
        In the order of the checks.
    links
        What was measured, by sender and receiver.
    """

    findings: tuple[Finding, ...]
    links: Mapping[Pair, LinkSpeed] = field(default_factory=dict)

    def of(self, verdict: Verdict) -> Sequence[Finding]:
        """Return the findings with this verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        links = [
            {"source": source, "target": target, **asdict(speed)}
            for (source, target), speed in self.links.items()
        ]
        return {"findings": [asdict(finding) for finding in self.findings], "links": links}
