# SPDX-License-Identifier: Apache-2.0
"""The floating-point peak of a core, measured: independent multiply-adds in registers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from decnn_tvm.schedules.vectors import vector_lanes
from decnn_tvm.targets import resolve_target

_PEAK = r"""
#include <stdio.h>
#include <time.h>
#ifdef __aarch64__
#define REGISTER "w"
#elif defined(__AVX512F__)
#define REGISTER "v"
#else
#define REGISTER "x"
#endif
typedef float vec __attribute__((vector_size(BYTES)));
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
                          return t.tv_sec + 1e-9 * t.tv_nsec; }
int main(void) {
  vec sum[12]; vec a = {0}, b = {0};
  for (int i = 0; i < 12; i++) sum[i] = a;
  double best = 1e9;
  for (int turn = 0; turn < 20; turn++) {
    double start = now();
    for (long k = 0; k < 2000000; k++) {
      __asm__ volatile("" : "+" REGISTER (a), "+" REGISTER (b));
      for (int i = 0; i < 12; i++) sum[i] += a * b;
    }
    double seconds = now() - start;
    if (seconds < best) best = seconds;
  }
  vec all = sum[0];
  for (int i = 1; i < 12; i++) all += sum[i];
  printf("%g %g\n", 2.0 * 12 * (BYTES / 4) * 2000000 / best, (double)all[0]);
}
"""


def measured_peak(folder: Path) -> float:
    """Return the most floating-point operations per second of one core, in single precision."""
    size = 4 * vector_lanes(resolve_target("host").target)
    (folder / "peak.c").write_text(_PEAK)
    command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-march=native", f"-DBYTES={size}"]
    command += ["-ffp-contract=fast", "-funroll-loops", "peak.c", "-o", "peak"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    done = subprocess.run(
        [str(folder / "peak")], capture_output=True, text=True, check=True, timeout=60
    )
    return float(done.stdout.split()[0])
