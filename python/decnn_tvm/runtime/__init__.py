# SPDX-License-Identifier: Apache-2.0
"""Workers, transports and sessions; imports nothing of the compiler."""

from __future__ import annotations

from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.session import Session

__all__ = ["Cluster", "InProcessCluster", "LocalCluster", "Session"]
