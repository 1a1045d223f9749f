# SPDX-License-Identifier: Apache-2.0
"""Whether an object is used by the process that made it, or by a fork that got a copy."""

from __future__ import annotations

import os

from decnn_tvm.errors import ClusterError


class OwnProcess:
    """Remembers the process in which it was made."""

    def __init__(self) -> None:
        self._made_in = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether the present process is a fork of that one."""
        return os.getpid() != self._made_in

    def check(self) -> None:
        """Raise `ClusterError` in a fork."""
        if self.forked:
            raise ClusterError(
                f"the cluster belongs to process {self._made_in}, of which this one is a fork. "
                "Make a cluster in the process that uses it."
            )
