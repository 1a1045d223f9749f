# SPDX-License-Identifier: Apache-2.0
"""Boards emulated on one machine: network namespaces in a star, links with a rate, a CPU quota.

A benchmark that uses them runs again in namespaces of its own (`run_isolated`): what it makes
there, network and processes, ends with it, however that happens. Control groups do not, so the
process outside removes them.

Needs Linux and root, and iproute2's ``ip`` and ``tc``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from decnn_tvm.errors import ClusterError
from decnn_tvm.testing.process_output import first_line

INSIDE = "DECNN_BENCHMARK_GROUP"
"""Set where we are in namespaces of our own: what names of control groups begin with."""
BURST, QUEUE = 128 << 10, "200ms"
PERIOD = 10_000
"""Microseconds of a CPU quota's period: short beside a stage."""
LEAST_QUOTA = 1_000
"""The least microseconds of a period that Linux takes as a quota; less needs a longer period."""
START = 30.0
NETWORK = "10.77.0"
TOOLS = ("ip", "tc", "unshare")
_V1 = Path("/sys/fs/cgroup/cpu")
_V1_MEMORY = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


def run_isolated(module: str, arguments: Sequence[str]) -> int:
    """Run a module again, with network, mounts and processes of its own; return its exit status.

    Raises
    ------
    ClusterError
        Not root, or a tool or the CPU controller is missing; says what it needs.
    """
    check_needs()
    group = f"decnn-{os.getpid()}"
    # Without --fork's child there is nobody: --kill-child ends it, and with it all processes.
    isolate = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*isolate, sys.executable, "-m", module, *arguments]
    # Ctrl-C reaches both processes, and this one waits for the other's end; SIGTERM ends both.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    try:
        return subprocess.run(
            command,
            env={**os.environ, INSIDE: group},
            check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ).returncode
    finally:
        signal.signal(signal.SIGINT, before)
        _remove_groups(group)


def _leave(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def check_needs() -> None:
    """Raise `ClusterError` where boards can't be emulated here."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if _controller() is None:
        missing.append("the cgroup CPU controller at /sys/fs/cgroup")
    if missing:
        raise ClusterError(
            f"emulated boards need root, iproute2, util-linux and control groups; missing here: "
            f"{', '.join(missing)}. Run it as root on Linux, in a container with all privileges "
            "where it is one."
        )


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken, all its threads together."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class EmulatedBoards:
    """`count` boards, each with a CPU quota and a link to one switch, where the coordinator is.

    Use it in a ``with`` block, inside of `run_isolated`.

    Parameters
    ----------
    count : int
        How many.
    quota : float
        Cores of each.
    delay : float
        Seconds that each link takes besides; a process passes the frames on then.
    memory : int, optional
        Bytes that all processes on a board may take together.
    """

    host = f"{NETWORK}.254"
    """The coordinator's address."""

    def __init__(
        self, count: int, quota: float, delay: float = 0.0, memory: int | None = None
    ) -> None:
        self.count, self._quota, self._delay, self._memory = count, quota, delay, memory
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> EmulatedBoards:
        # A fresh /run, so that `ip netns` leaves nothing on the machine.
        _command("mount", "-t", "tmpfs", "none", "/run")
        _command("ip", "link", "set", "lo", "up")
        _command("ip", "link", "add", "switch", "type", "bridge")
        _command("ip", "addr", "add", f"{self.host}/24", "dev", "switch")
        _command("ip", "link", "set", "switch", "up")
        if self._delay:
            self._start_relay()
        for rank in range(self.count):
            self._add(rank)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End what was started on the boards."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(START)
        self._processes.clear()

    def limit(self, rate: float | None) -> None:
        """Let every board send and receive `rate` bits per second; any number where it is None."""
        for rank in range(self.count):
            for where in (("-n", f"board{rank}"), ()):
                device = "eth0" if where else f"port{rank}"
                if rate is None:
                    _command("tc", *where, "qdisc", "replace", "dev", device, "root", "pfifo")
                else:
                    shape = ("rate", f"{rate:.0f}", "burst", str(BURST), "latency", QUEUE)
                    tc = ("tc", *where, "qdisc", "replace", "dev", device, "root", "tbf")
                    _command(*tc, *shape)

    def slow_down(self, rank: int, quota: float) -> None:
        """Give a board another number of cores."""
        _set_quota(_group(rank), quota)

    def processor_seconds(self, rank: int) -> float:
        """Return the processor time that a board's running processes have taken, all in all."""
        pids = (_group(rank) / "cgroup.procs").read_text().split()
        return sum(processor_seconds(int(pid)) for pid in pids)

    def take_in(self, rank: int, pid: int) -> None:
        """Have a process, with its threads, take part in a board's quota."""
        (_group(rank) / "cgroup.procs").write_text(str(pid))

    def let_out(self, pid: int) -> None:
        """Have a process take nothing of its board's quota until it is taken in again."""
        controller = _controller()
        assert controller is not None
        (controller / "cgroup.procs").write_text(str(pid))

    def start(self, rank: int, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on a board; its standard output is a pipe."""
        # The shell is in the group before it becomes the command.
        own = [_group(rank), *([] if self._memory is None else [_memory_group(rank)])]
        groups = " && ".join(f"echo $$ > {group / 'cgroup.procs'}" for group in dict.fromkeys(own))
        enter = ["sh", "-c", f'{groups} && exec "$@"', "sh"]
        process = subprocess.Popen(
            [*enter, "ip", "netns", "exec", f"board{rank}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._processes.append(process)
        return process

    def start_worker(self, rank: int) -> str:
        """Start a worker on a board; return its address."""
        return self.launch_worker(rank)[0]

    def launch_worker(
        self, rank: int, keys: Path | None = None
    ) -> tuple[str, subprocess.Popen[bytes]]:
        """Start a worker on a board, with its folder of keys; return its address and process."""
        worker = (sys.executable, "-m", "decnn_tvm.runtime.worker", "--until-eof")
        trust = ("--insecure",) if keys is None else ("--keys", str(keys))
        process = self.start(rank, *worker, *trust, "--host", f"{NETWORK}.{rank + 1}")
        answer = json.loads(first_line(process, START))
        return f"{answer['host']}:{answer['port']}", process

    def _start_relay(self) -> None:
        pairs = [f"far{rank},port{rank}" for rank in range(self.count)]
        program = (sys.executable, "-m", "benchmarks.delaying_links", str(self._delay))
        relay = subprocess.Popen([*program, *pairs], stdout=subprocess.PIPE)
        self._processes.append(relay)
        first_line(relay, START)

    def _add(self, rank: int) -> None:
        name, port = f"board{rank}", f"port{rank}"
        _command("ip", "netns", "add", name)
        if self._delay:
            _command("ip", "link", "set", f"far{rank}", "netns", name, "name", "eth0")
        else:
            veth = ("type", "veth", "peer", "name", "eth0", "netns", name)
            _command("ip", "link", "add", port, *veth)
        _command("ip", "link", "set", port, "master", "switch", "up")
        _command("ip", "-n", name, "addr", "add", f"{NETWORK}.{rank + 1}/24", "dev", "eth0")
        _command("ip", "-n", name, "link", "set", "lo", "up")
        _command("ip", "-n", name, "link", "set", "eth0", "up")
        group = _group(rank)
        group.mkdir()
        _set_quota(group, self._quota)
        if self._memory is not None:
            _limit_memory(_memory_group(rank), self._memory)


def _limit_memory(group: Path, limit: int) -> None:
    if group.parent == _V1_MEMORY:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    else:
        (group / "memory.max").write_text(str(limit))


def _set_quota(group: Path, cores: float) -> None:
    period = max(PERIOD, math.ceil(LEAST_QUOTA / cores))
    quota = round(cores * period)
    if group.parent == _V1:
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (group / "cpu.max").write_text(f"{quota} {period}")


def _group(rank: int) -> Path:
    controller = _controller()
    assert controller is not None
    return controller / f"{os.environ[INSIDE]}-{rank}"


def _memory_group(rank: int) -> Path:
    own = _group(rank)
    return _V1_MEMORY / own.name if own.parent == _V1 else own


def _controller() -> Path | None:
    """Return where control groups with a CPU quota are made, of version 1 or 2."""
    if (_V1 / "cgroup.procs").exists():
        return _V1
    children = _V2 / "cgroup.subtree_control"
    return _V2 if children.exists() and "cpu" in children.read_text().split() else None


def _remove_groups(prefix: str) -> None:
    """Remove control groups once the kernel has taken their last process out."""
    deadline = time.monotonic() + 10
    controllers = {each for each in (_controller(), _V1_MEMORY) if each is not None}
    for group in (group for each in controllers for group in each.glob(f"{prefix}-*")):
        while group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()
            time.sleep(0.05)


def _command(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}. Run it as root.")
