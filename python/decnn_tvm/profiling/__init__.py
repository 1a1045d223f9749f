# SPDX-License-Identifier: Apache-2.0
"""What a cluster's devices and links can do, measured, and kept in a file."""

from __future__ import annotations

from decnn_tvm.profiling.measuring import measure_profile
from decnn_tvm.profiling.profile import LinkProfile, Profile, StageProfile, WorkerProfile

__all__ = ["LinkProfile", "Profile", "StageProfile", "WorkerProfile", "measure_profile"]
