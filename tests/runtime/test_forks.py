# SPDX-License-Identifier: Apache-2.0
"""A process that forks while it has a cluster: the child ends, and the cluster goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decnn_tvm.keys import make_keys

SCRIPT = """
import os
import sys

import numpy as np

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.local_cluster import LocalCluster

package, x, keys = sys.argv[1], np.load(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None


def refused(call):
    try:
        call()
    except ClusterError as error:
        return "is a fork" in str(error)
    return False


with LocalCluster(2, timeout=20, keys=keys) as cluster, cluster.deploy(package) as session:
    before = session.run(x)
    stream = session.stream([x] * 4, in_flight=2)
    next(stream)
    child = os.fork()
    if not child:
        calls = (
            lambda: session.run(x),
            session.stats,
            session.timeline,
            lambda: next(stream),
            lambda: cluster.deploy(package),
        )
        sys.exit(0 if [refused(call) for call in calls] == [True] * len(calls) else 3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, code
    for result in (*stream, session.run(x)):
        assert np.array_equal(result, before)
    assert session.assignment == ((0, 1), (2, 3)), session.assignment
    assert cluster._folder.is_dir() and not any(cluster.cause(rank) for rank in (0, 1))
print("the parent went on")
"""


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keys"])
def test_a_child_that_exits_leaves_the_cluster_alone(hand_net, tmp_path: Path, keyed: bool) -> None:
    """`sys.exit` unwinds the with block, runs finalisers, and frees the child's sockets."""
    np.save(tmp_path / "x.npy", hand_net.samples(1)[0])
    if keyed:
        make_keys(tmp_path / "keys", ["pi1", "pi2"])
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", SCRIPT),
            *(hand_net.package.path, tmp_path / "x.npy"),
            *([tmp_path / "keys"] if keyed else []),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the parent went on\n"
    assert "a new epoch" not in done.stderr
