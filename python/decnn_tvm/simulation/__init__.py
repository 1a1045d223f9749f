# SPDX-License-Identifier: Apache-2.0
"""What a plan would do on a cluster, made up or measured: a discrete-event simulation.

Nothing here needs a worker or the compiler: a plan, an assignment, seconds for each stage and a
model of the network go in; latency, throughput, bytes, memory and a timeline come out.
"""

from __future__ import annotations

from decnn_tvm.simulation.machines import Device, Link, Machines
from decnn_tvm.simulation.outcome import Outcome
from decnn_tvm.simulation.port_load import PortLoad
from decnn_tvm.simulation.simulator import StageSeconds, simulate

__all__ = ["Device", "Link", "Machines", "Outcome", "PortLoad", "StageSeconds", "simulate"]
