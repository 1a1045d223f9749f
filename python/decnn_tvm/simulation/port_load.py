# SPDX-License-Identifier: Apache-2.0
"""What goes through a machine's port, and how long that keeps it busy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLoad:
    """What a port sends and receives, which it does both at the same time.

    Attributes
    ----------
    sent_bytes, received_bytes : float
        Headers included.
    sending_seconds, receiving_seconds : float
        How long it is busy with them.
    """

    sent_bytes: float
    received_bytes: float
    sending_seconds: float
    receiving_seconds: float

    @property
    def busy_seconds(self) -> float:
        """How long it is busy in the direction in which it is busier."""
        return max(self.sending_seconds, self.receiving_seconds)

    @property
    def busy_bytes(self) -> float:
        """Bytes in that direction."""
        sends = self.sending_seconds >= self.receiving_seconds
        return self.sent_bytes if sends else self.received_bytes

    def of_one(self, samples: int) -> PortLoad:
        """Return the share of one of so many samples."""
        return PortLoad(
            sent_bytes=self.sent_bytes / samples,
            received_bytes=self.received_bytes / samples,
            sending_seconds=self.sending_seconds / samples,
            receiving_seconds=self.receiving_seconds / samples,
        )
