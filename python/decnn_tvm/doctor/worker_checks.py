# SPDX-License-Identifier: Apache-2.0
"""The checks of one worker, from the coordinator: each a finding, none an exception."""

from __future__ import annotations

import dataclasses
import socket
import time

from decnn_tvm.assignment import even_shares
from decnn_tvm.cluster_file import ClusterWorker
from decnn_tvm.doctor.findings import FAILURE, OK, WARNING, Finding, Verdict
from decnn_tvm.errors import ClusterError, CompileError, DecnnError, PackageError
from decnn_tvm.manifest import Manifest
from decnn_tvm.package import versions
from decnn_tvm.quantities import format_time
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.machine import Machine, choose_target
from decnn_tvm.runtime.membership import share_bytes
from decnn_tvm.runtime.remote_worker import RemoteWorker

CLOCK_SKEW = 2.0
"""Seconds by which clocks may differ before logs of several machines can't be read together."""
MEGA = 1e6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What workers are checked against.

    Attributes
    ----------
    credentials
        Who we are and whom we trust; None without keys.
    manifest
        The package that they are to run, if one was given.
    workers
        How many there are.
    timeout
        Seconds that any wait may take.
    """

    credentials: Credentials | None
    manifest: Manifest | None
    workers: int
    timeout: float


def examine(entry: ClusterWorker, context: Context) -> tuple[list[Finding], RemoteWorker | None]:
    """Return what is found on a worker, and the connection to it if there is one."""
    reached = _reach(entry, context.timeout)
    if reached.verdict == FAILURE:
        return [reached], None
    try:
        worker = RemoteWorker(entry.address, entry.name, context.timeout, context.credentials)
    except ClusterError as error:
        text = str(error).removeprefix(f"{entry.name}: ").partition(". ")[0]
        return [reached, _found(entry, "keys", FAILURE, text, _KEYS)], None
    known = "authenticated and encrypted" if context.credentials else "none, nor asked for"
    found = [reached, _found(entry, "keys", OK, known)]
    try:
        machine = worker.machine()
        found += [
            _compare_versions(entry, machine, context.manifest),
            _fit(entry, machine, context.manifest),
            _memory(entry, worker.capacity(), context),
            _clock(entry, worker),
        ]
    except ClusterError as error:
        found.append(_found(entry, "answers", FAILURE, str(error), "Start that worker again."))
        worker.disconnect()
        return found, None
    return found, worker


_KEYS = (
    "Start that worker with `decnn worker --keys` and its folder of those that this coordinator's "
    "folder was made with, and give the cluster file that folder as `credentials`."
)


def _found(
    entry: ClusterWorker, check: str, verdict: Verdict, detail: str, remedy: str = ""
) -> Finding:
    return Finding(
        subject=entry.name,
        check=check,
        verdict=verdict,
        detail=detail,
        remedy=remedy,
    )


def _reach(entry: ClusterWorker, timeout: float) -> Finding:
    host, _, port = entry.address.rpartition(":")
    start = time.monotonic()
    try:
        socket.create_connection((host, int(port)), timeout=timeout).close()
    except OSError as error:
        remedy = (
            f"Start `decnn worker --host {host} --port {port}` there, look whether its machine is "
            f"on and has that address, and allow the port in its firewall."
        )
        detail = f"no worker answers at {entry.address} ({error.strerror or error})"
        return _found(entry, "reachable", FAILURE, detail, remedy)
    seconds = time.monotonic() - start
    return _found(entry, "reachable", OK, f"{entry.address}, in {format_time(seconds)}")


def _compare_versions(entry: ClusterWorker, machine: Machine, manifest: Manifest | None) -> Finding:
    wanted = versions() if manifest is None else manifest.versions
    other = {k: v for k, v in wanted.items() if machine.versions.get(k) != v}
    if not other:
        text = ", ".join(f"{name} {version}" for name, version in wanted.items())
        return _found(entry, "versions", OK, text)
    here = "this machine" if manifest is None else "the package"
    detail = ", ".join(
        f"{name} {machine.versions.get(name)}, {here}: {version}" for name, version in other.items()
    )
    pins = " ".join(f"{name}=={version}" for name, version in other.items())
    remedy = f"Run there: pip install {pins}" + (
        "" if manifest is None else ", or compile the package again with what the workers have"
    )
    return _found(entry, "versions", FAILURE, detail, f"{remedy}; then start the worker again.")


def _fit(entry: ClusterWorker, machine: Machine, manifest: Manifest | None) -> Finding:
    """Look whether the machine runs the package's code, or else the code of its target."""
    try:
        if manifest is not None:
            # Versions have a check of their own.
            same = dataclasses.replace(machine, versions=manifest.versions)
            target = choose_target(manifest, same, entry.name, None)
            return _found(entry, "processor", OK, f"{machine.machine}, runs target {target!r}")
        return _fits_target(entry, machine)
    except PackageError as error:
        add = f" --target {entry.target}" if isinstance(entry.target, str) else ""
        return _found(
            entry,
            "processor",
            FAILURE,
            str(error),
            f"Compile the package for this machine: `decnn compile …{add}`.",
        )
    except CompileError as error:
        remedy = "Correct the target in the cluster file."
        return _found(entry, "processor", FAILURE, str(error), remedy)


def _fits_target(entry: ClusterWorker, machine: Machine) -> Finding:
    from decnn_tvm.targets import resolve_target  # TVM's compiler, which takes a second to load

    target = resolve_target(entry.target)
    lacking = [flag for flag in target.features if flag not in machine.features]
    if target.machine == machine.machine and not lacking:
        return _found(entry, "processor", OK, f"{machine.machine}, fits target {target.name!r}")
    what = f"lacks CPU features {lacking}" if lacking else f"is a {machine.machine} machine"
    if target.machine != machine.machine:
        what = f"is a {machine.machine} machine, not {target.machine}"
    detail = f"target {target.name!r} does not fit: it {what}"
    remedy = "Name what the machine is as its target in the cluster file, and compile for that."
    return _found(entry, "processor", FAILURE, detail, remedy)


def _memory(entry: ClusterWorker, capacity: int, context: Context) -> Finding:
    text = f"{capacity / MEGA:.0f} MB for a session"
    if entry.memory is not None and capacity < entry.memory:
        detail = f"{text}, the cluster file says {entry.memory / MEGA:.0f} MB"
        remedy = "Free memory there, raise `decnn worker --memory`, or lower it in the file."
        return _found(entry, "memory", FAILURE, detail, remedy)
    if context.manifest is not None:
        plan = context.manifest.plan
        share = even_shares(plan.groups, min(context.workers, plan.groups))[0]
        need = share_bytes(plan, share)
        text += f", {need / MEGA:.0f} MB needed for {share} of {plan.groups} channel groups"
        if capacity < need:
            remedy = "Use more workers or another one, or give this one fewer groups (--shares)."
            return _found(entry, "memory", FAILURE, text, remedy)
    return _found(entry, "memory", OK, text)


def _clock(entry: ClusterWorker, worker: RemoteWorker) -> Finding:
    before = time.time()
    theirs = worker.ask("clock", float)
    skew = theirs - (before + time.time()) / 2
    if abs(skew) <= CLOCK_SKEW:
        return _found(entry, "clock", OK, f"within {CLOCK_SKEW:g} s of ours")
    side = "ahead of" if skew > 0 else "behind"
    remedy = "Run there: timedatectl set-ntp true. Nothing fails, but logs can't be compared."
    return _found(entry, "clock", WARNING, f"{abs(skew):.0f} s {side} ours", remedy)


def check_trackers(workers: tuple[ClusterWorker, ...], tracker: str | None) -> list[Finding]:
    """Return whether the workers that are to tune are registered at the tracker."""
    keys = [worker.tuning_key for worker in workers if worker.tuning_key]
    if tracker is None or not keys:
        return []
    from decnn_tvm.tuning.tracker import Tracker  # TVM's compiler and its RPC

    findings = []
    for key in dict.fromkeys(keys):
        subject = f"tracker, key {key}"
        try:
            there = Tracker.parse(tracker, key).check()
        except DecnnError as error:
            text, _, remedy = str(error).partition(". ")
            findings.append(
                Finding(
                    subject=subject, check="tuning", verdict=FAILURE, detail=text, remedy=remedy
                )
            )
            continue
        wanted = keys.count(key)
        short = there < wanted
        findings.append(
            Finding(
                subject=subject,
                check="tuning",
                verdict=WARNING if short else OK,
                detail=f"{there} of {wanted} boards registered",
                remedy="Start the others with `decnn worker --tuning`." if short else "",
            )
        )
    return findings
