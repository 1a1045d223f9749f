# SPDX-License-Identifier: Apache-2.0
"""The page: a network on a cluster, explained to somebody who has not read the paper.

One file of HTML without anything from outside: pictures are SVG inside it, and its colours follow
the reader's choice of light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from decnn_tvm.errors import InputError
from decnn_tvm.planning.estimates import Estimate, stage_seconds
from decnn_tvm.planning.memory import IDLE_BYTES, Memory
from decnn_tvm.planning.planner import Ranked, Ranking
from decnn_tvm.profiling.profile import Profile, plan_sha256
from decnn_tvm.report.charts import Bar, Curve, draw_bars, draw_curves
from decnn_tvm.report.drawing import legend
from decnn_tvm.report.kernel_shares import busiest_worker, estimated_bars, measured_bars
from decnn_tvm.report.network_picture import draw_network
from decnn_tvm.report.timeline_chart import draw_timeline
from decnn_tvm.report.words import explain_moves, explain_ways
from decnn_tvm.runtime.statistics import TimelineEvent
from decnn_tvm.simulation import simulate

STREAM = 24
"""Samples that are simulated for the timeline."""
DEVICES = 16
"""Devices whose memory is shown, those that need the most."""
MEGA = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a page shows.

    Attributes
    ----------
    ranking : Ranking
        The alternatives; the page is about the best that fits, or one device where none is better.
    curves : sequence of Curve
        Speed-ups.
    profile : Profile, optional
        What was measured, if anything: the page then shows its kernels.
    trace : sequence of TimelineEvent, optional
        A real run; by default the timeline is simulated.
    trace_names : sequence of str
        What the devices of the trace are called.
    """

    ranking: Ranking
    curves: Sequence[Curve]
    profile: Profile | None = None
    trace: Sequence[TimelineEvent] | None = None
    trace_names: Sequence[str] = ()

    @property
    def shown(self) -> Estimate:
        """The alternative that the pictures are of."""
        if self.ranking.refused:
            return self.ranking.single
        return self.ranking.best

    def html(self) -> str:
        """Return the page."""
        found = self.shown
        title = f"{found.split.plan.model} on {len(self.ranking.speeds.clocks)} devices"
        style = resources.files("decnn_tvm.report").joinpath("page.css").read_text("utf-8")
        sections = [
            self._verdict(),
            self._network(found),
            self._timeline(found),
            self._curves(),
            self._memory(found),
            self._kernels(found),
        ]
        return (
            "<!DOCTYPE html>\n"
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style}</style></head>"
            f"<body><main><h1>{escape(title)}</h1>{''.join(sections)}</main></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page.

        Raises
        ------
        InputError
            It can't be written.
        """
        try:
            path.write_text(self.html(), encoding="utf-8")
        except OSError as error:
            raise InputError(f"report {path}: can't be written ({error.strerror}).") from error

    def _verdict(self) -> str:
        ranking = self.ranking
        names = _names(self.shown, ranking)
        if ranking.refused:
            # Where not even one device fits, this is refused because none does.
            fits = ranking.single_fits
            says = "Several devices are not worth it" if fits else "It can't be run on these"
            why = ranking.refused[0].upper() + ranking.refused[1:]
            text = f"<strong>{says}.</strong> {escape(why)}"
        else:
            best, single = ranking.best, ranking.single
            times = single.latency_seconds / best.latency_seconds
            rate = best.samples_per_second / single.samples_per_second
            wire = f", which exchange numbers as {best.wire}" if best.exchanges else ""
            text = (
                f"<strong>Best for {ranking.goal}: {escape(best.alternative.name)}</strong> on "
                f"{escape(', '.join(names))}{wire}. A sample alone takes "
                f"{1e3 * best.latency_seconds:.1f} ms, {times:.2f} times as fast as on one device; "
                f"with {best.window} under way at once, {best.samples_per_second:.2f} samples a "
                f"second are {rate:.2f} times as many."
            )
            if not best.alternative.trained:
                text += " It is another network, which must be trained before it is of use."
        basis = _basis(ranking)
        ways = explain_ways([entry.name for entry in ranking.entries])
        return (
            f"<section><p class='verdict'>{text}</p><p>{basis}</p>{self._table()}{ways}</section>"
        )

    def _table(self) -> str:
        head = "".join(
            f"<th>{name}</th>"
            for name in ("", "devices", "latency, ms", "samples/s", "memory, MB", "why it loses")
        )
        rows = "".join(_table_row(entry) for entry in self.ranking.entries)
        return f"<div class='wide'><table><tr>{head}</tr>{rows}</table></div>"

    def _network(self, found: Estimate) -> str:
        speeds = self.ranking.speeds.chosen(found.ranks)
        seconds = stage_seconds(found.split, found.assignment, speeds)
        times = [
            {s.function: seconds(rank, s.function) for s in found.plan.stages if s.runs_on(groups)}
            for rank, groups in enumerate(found.assignment)
        ]
        picture = draw_network(found.plan, found.assignment, _names(found, self.ranking), times)
        return _section(
            "The network and who computes it",
            "Time goes from left to right. A box is a part of the network that a device computes "
            "without asking others; a bar between boxes is where data moves between devices (how "
            "much, summed over all of them). Point at a box for its layers and where its tensors "
            "are, at a bar for what moves.",
            picture + explain_moves({movement.kind for movement in found.plan.movements}),
        )

    def _timeline(self, found: Estimate) -> str:
        if self.trace is not None:
            return _section(
                "A run, measured",
                "What each device did in the middle of a real stream of samples. A gap is a wait.",
                draw_timeline(self.trace, self.trace_names),
            )
        speeds = self.ranking.speeds.chosen(found.ranks)
        outcome = simulate(
            found.plan,
            found.assignment,
            speeds.machines,
            stage_seconds(found.split, found.assignment, speeds),
            samples=max(STREAM, 3 * found.window),
            window=found.window,
            timeline=True,
        )
        return _section(
            "A stream of samples, simulated",
            "What each device does when samples follow one another. While the data of one sample "
            "is under way, a device computes another one: colours tell samples apart. The thin "
            "bars beneath are messages leaving and coming in.",
            draw_timeline(outcome.timeline, _names(found, self.ranking)),
        )

    def _curves(self) -> str:
        goal = self.ranking.goal
        axis = "times as many samples/s" if goal == "throughput" else "times as fast"
        return _section(
            "More devices",
            "Each alternative on more devices like the fastest one here, against one such device. "
            "Decoupled versions are networks of their own, each for some numbers of devices. "
            "A dashed line is a limit that no curve of that alternative can pass: computing alone, "
            "with messages that take no time, or the busiest network port alone, which may be the "
            "coordinator's.",
            draw_curves(self.curves, axis),
        )

    def _memory(self, found: Estimate) -> str:
        most = sorted(range(len(found.ranks)), key=lambda place: -found.memory[place].total)
        bars = []
        for place in sorted(most[:DEVICES]):
            device = self.ranking.speeds.machines.devices[found.ranks[place]]
            limit = device.memory_bytes
            room = None if limit is None else (limit - IDLE_BYTES) / MEGA
            bars.append(Bar(device.name, _memory_parts(found.memory[place]), room))
        bars.append(Bar("one device alone", _memory_parts(self.ranking.single.memory[0])))
        keys = legend([(style, name) for style, name, _ in _memory_parts(found.memory[0])])
        return _section(
            "Memory of each device",
            "Above what an idle worker takes. A vertical line is what the device may give."
            + (
                f" Of {len(most)} devices the {DEVICES} that need the most."
                if most[DEVICES:]
                else ""
            ),
            draw_bars(bars, "MB", "memory, MB") + keys,
        )

    def _kernels(self, found: Estimate) -> str:
        profile = self.profile
        if profile is None:
            return self._estimated_kernels(found)
        worker = busiest_worker(profile.workers)
        measured = _section(
            "Where the computing goes, measured",
            f"Share of the time of {escape(worker.name)}, the busiest device, in the package of "
            f"{escape(profile.model)} that was profiled: first the longest stages, then the "
            "longest kernels by the compiler's names.",
            draw_bars(measured_bars(worker), "%", "share of the computing time, %"),
        )
        if profile.plan_sha256 == plan_sha256(found.plan):
            return measured
        return measured + self._estimated_kernels(found)

    def _estimated_kernels(self, found: Estimate) -> str:
        busiest = max(range(len(found.ranks)), key=lambda rank: found.compute_seconds[rank])
        target = self.ranking.speeds.targets[found.ranks[busiest]]
        kernels = found.split.kernels(target, found.assignment[busiest])
        bars = estimated_bars(cost for stage in kernels.values() for cost in stage)
        return _section(
            "Where the computing goes, estimated",
            f"Share of the time of {escape(_names(found, self.ranking)[busiest])}, the busiest "
            "device in what is shown above: first by kind of kernel, then the longest layers, as "
            "the compiler's cost model sees them.",
            draw_bars(bars, "%", "share of the computing time, %"),
        )


def _basis(ranking: Ranking) -> str:
    """Return what the figures rest on."""
    if ranking.speeds.measured:
        return "Devices and links were measured."
    if ranking.speeds.estimated:
        missing = escape(" and ".join(ranking.speeds.estimated))
        return f"Devices and links were measured, but for {missing}, which are estimates."
    return "Nothing was measured: speeds are estimates from the cluster's file and a table."


def _section(title: str, caption: str, content: str) -> str:
    return (
        f"<section><h2>{escape(title)}</h2><p>{caption}</p>"
        f"<figure class='wide'>{content}</figure></section>"
    )


def _memory_parts(memory: Memory) -> tuple[tuple[str, str, float], ...]:
    return (
        ("f0", "weights", memory.weights / MEGA),
        ("f1", "largest tensors of a stage", memory.workspace / MEGA),
        ("f2", "samples under way", memory.buffers / MEGA),
        ("f3", "more, while weights are loaded", (memory.total - memory.running) / MEGA),
    )


def _names(found: Estimate, ranking: Ranking) -> list[str]:
    return [ranking.speeds.machines.devices[rank].name for rank in found.ranks]


def _table_row(entry: Ranked) -> str:
    found, name = entry.estimate, escape(entry.name)
    if found is None:
        return f"<tr><td>{name}</td><td colspan='4'></td><td>{escape(entry.reason)}</td></tr>"
    if not found.alternative.trained:
        name += " (needs training)"
    memory = max(memory.total for memory in found.memory) / MEGA
    return (
        f"<tr class='{'best' if not entry.reason else ''}'><td>{name}</td>"
        f"<td>{len(found.ranks)}</td><td>{1e3 * found.latency_seconds:.1f}</td>"
        f"<td>{found.samples_per_second:.2f}</td><td>{memory:.0f}</td>"
        f"<td>{escape(entry.reason) or 'best'}</td></tr>"
    )
