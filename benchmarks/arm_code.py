# SPDX-License-Identifier: Apache-2.0
"""The inner loops of AArch64 kernels, run by llvm-mca on its models of the cores: no board needed.

The peak is what the same model makes of independent multiply-adds. Caches and memory are not
modelled: a loop at 95 % here may wait for memory on a board.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.harness import Figure, parser, progress, report
from decnn_tvm.errors import DecnnError
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.assembly import hot_loop
from decnn_tvm.testing.layers import ARM_CPUS, MAIN_KERNELS, WINOGRAD, arm_target, assembly

ITERATIONS = 200
_PEAK = [f"fmla v{n}.4s, v30.4s, v31.4s" for n in range(24)]


@functools.cache
def llvm_mca() -> str:
    """Return the newest llvm-mca there is.

    Raises
    ------
    DecnnError
        There is none.
    """
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(13, 24))]
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        raise DecnnError("llvm-mca is not installed. Run: apt install llvm")
    return found[-1]


def cycles(lines: Sequence[str], cpu: str) -> float:
    """Return the cycles of one pass of a loop without branches, in the long run."""
    command = [llvm_mca(), "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}"]
    command.append(f"-iterations={ITERATIONS}")
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60
    )
    return int(re.findall(r"Total Cycles:\s+(\d+)", done.stdout)[0]) / ITERATIONS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser("benchmarks.arm_code", __doc__ or "").parse_args(arguments)
    rows, summary = [], {}
    for cpu in ARM_CPUS:
        target = resolve_target(arm_target(cpu)).target
        peak = len(_PEAK) / cycles(_PEAK, cpu)
        for name, kernel in MAIN_KERNELS.items():
            progress(f"{cpu}: {name}")
            loop = hot_loop(assembly(kernel(), target, winograd=name in WINOGRAD))
            share = loop.multiply_adds / cycles(loop.straight, cpu) / peak
            rows.append(
                {
                    "core": cpu,
                    "kernel": name,
                    "instructions": len(loop.lines),
                    "fmla": loop.multiply_adds,
                    "stack accesses": loop.stack_accesses,
                    "of peak": share,
                }
            )
            summary[f"{cpu}, {name}: share of the FMA peak"] = Figure(share, 0.8)
    report("AArch64 inner loops by llvm-mca", rows, summary, options.json)


if __name__ == "__main__":
    try:
        main()
    except DecnnError as error:
        sys.exit(f"benchmarks.arm_code: {error}")
