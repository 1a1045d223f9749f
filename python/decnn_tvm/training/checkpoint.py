# SPDX-License-Identifier: Apache-2.0
"""A training's state in a file that is always whole: written beside the old one, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decnn_tvm.errors import TrainingError

_VERSION = 2
_NEAR = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a training is: a checkpoint of another one is not loaded.

    Attributes
    ----------
    text : str
        Network, recipe, data and precision, digested.
    weights : tuple of float
        What the weights are at first, from `sketch`. Weights that were fitted to images depend on
        the order of sums in their last bits, so these need not be the same, but near.
    """

    text: str
    weights: tuple[float, ...]

    def is_that_of(self, other: Identity) -> bool:
        """Tell whether both are the same training."""
        if (self.text, len(self.weights)) != (other.text, len(other.weights)):
            return False
        pairs = zip(self.weights, other.weights, strict=True)
        return all(abs(a - b) <= _NEAR * (1 + abs(b)) for a, b in pairs)


def sketch(state: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Return two numbers for each tensor: its norm, and its projection on a random direction.

    The second is drawn from a normal distribution of variance 1 where a tensor is another one, and
    changes by what the tensor changes, relative to its norm.
    """
    numbers = []
    random = torch.Generator().manual_seed(0)
    for value in state.values():
        flat = value.detach().cpu().double().flatten()
        direction = torch.randn(len(flat), generator=random, dtype=torch.float64)
        norm = float(flat.norm())
        numbers += [norm, float(flat @ direction) / norm if norm else 0.0]
    return tuple(numbers)


def save_checkpoint(path: Path, identity: Identity, state: dict[str, Any]) -> None:
    """Write a checkpoint, or leave the one that is there.

    Parameters
    ----------
    path : Path
        The file.
    identity : Identity
        What the state belongs to; only the same can load it.
    state : dict
        Tensors, numbers, texts, lists and dicts of them.

    Raises
    ------
    TrainingError
        The file can't be written.
    """
    data = {
        "version": _VERSION,
        "identity": identity.text,
        "weights": list(identity.weights),
        "state": state,
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            torch.save(data, file)
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns the first into the second
        raise TrainingError(f"can't write the checkpoint {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def load_checkpoint(path: Path, identity: Identity) -> dict[str, Any] | None:
    """Return the state in a checkpoint, None if there is no file.

    Raises
    ------
    TrainingError
        The file is damaged, or belongs to another network, recipe or data.
    """
    if not path.exists():
        return None
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        version, state = data["version"], dict(data["state"])
        found = Identity(text=data["identity"], weights=tuple(data["weights"]))
    except Exception as error:  # torch.load raises whatever its parts trip over
        raise TrainingError(
            f"{path}: no checkpoint that can be read ({type(error).__name__}); delete it to start "
            "anew"
        ) from error
    if version != _VERSION or not found.is_that_of(identity):
        raise TrainingError(
            f"{path} belongs to another training (network, start, teacher, data, recipe or "
            "precision differ); use another folder, or delete it to start anew"
        )
    return state
