# SPDX-License-Identifier: Apache-2.0
"""What the coordinator tells a worker at the start of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from decnn_tvm.errors import ClusterError
from decnn_tvm.plan import Indices

PATIENCE = 5.0
"""Seconds that a stage of the epoch before has to end, unless the coordinator says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a worker is told to start; travels as JSON.

    Attributes
    ----------
    rank : int
        The worker's own.
    target : str
        Which libraries it uses.
    assignment : tuple of tuple of int
        Channel groups by rank; a rank without any is lost or a spare.
    addresses : dict of int to str
        Data plane of the coordinator and the members, as this worker reaches them.
    cluster : str
        The deployment's id, in hexadecimal.
    package : str
        SHA-256 of the package's manifest, in hexadecimal.
    epoch : int
        Higher than that of the start before.
    live : tuple of int
        Samples below `next_sample` that will be sent (again).
    next_sample : int
        The first sample that has not been submitted yet.
    patience : float
        Seconds that a stage of the epoch before has to come to its end.
    """

    rank: int
    target: str
    assignment: tuple[Indices, ...]
    addresses: dict[int, str]
    cluster: str
    package: str
    epoch: int
    live: tuple[int, ...] = ()
    next_sample: int = 0
    patience: float = PATIENCE

    @staticmethod
    def from_json(data: dict[str, Any]) -> StartRequest:
        """Read the request back from JSON data; raise `ClusterError` on anything else."""
        try:
            assignment = tuple(tuple(int(g) for g in groups) for groups in data["assignment"])
            addresses = {int(rank): str(address) for rank, address in data["addresses"].items()}
            live = tuple(int(sample) for sample in data.get("live", ()))
            patience = float(data.get("patience", PATIENCE))
            changed = {"assignment": assignment, "addresses": addresses, "live": live}
            return StartRequest(**{**data, **changed, "patience": patience})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ClusterError(
                f"start: no such request ({type(error).__name__}: {error}). Install the same "
                "decnn-tvm everywhere."
            ) from error
