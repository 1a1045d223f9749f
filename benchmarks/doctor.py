# SPDX-License-Identifier: Apache-2.0
"""What `decnn cluster check` says of a cluster with five planted faults, and how long it takes.

All workers are processes on loopback: one does not run, one has the keys of another cluster, one
says that it has another version of TVM, one that its processor has no vectors, and one sits behind
proxies that let 1 MB/s pass.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import parser
from decnn_tvm.cli.show_report import show_report
from decnn_tvm.doctor.cluster_check import check_cluster
from decnn_tvm.testing.planted_faults import faulty_cluster


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the check and print its report."""
    options = parser("benchmarks.doctor", __doc__ or "", rounds=1).parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        faulty_cluster(Path(folder)) as faulty,
    ):
        start = time.perf_counter()
        report = check_cluster(faulty.file, route=faulty.route)
        seconds = time.perf_counter() - start
    show_report(report)
    workers, links = len(faulty.file.workers), len(report.links)
    print(f"{workers} workers and {links} links checked in {seconds:.1f} s")
    if options.json:
        data = {"seconds": seconds, **report.to_json()}
        Path(options.json).write_text(json.dumps(data, indent=2))


if __name__ == "__main__":
    main()
