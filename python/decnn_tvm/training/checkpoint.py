# SPDX-License-Identifier: Apache-2.0
"""A training's state in a file that is always whole: written beside the old one, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from decnn_tvm.errors import TrainingError

_VERSION = 1


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a checkpoint, or leave the one that is there.

    Parameters
    ----------
    path : Path
        The file.
    identity : str
        What the state belongs to; only the same can load it.
    state : dict
        Tensors, numbers, texts, lists and dicts of them.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"version": _VERSION, "identity": identity, "state": state}, draft)
        os.replace(draft, path)
    except OSError as error:
        raise TrainingError(f"can't write the checkpoint {path}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
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
        version, found, state = data["version"], data["identity"], dict(data["state"])
    except Exception as error:  # torch.load raises whatever its parts trip over
        raise TrainingError(
            f"{path}: no checkpoint that can be read ({type(error).__name__}); delete it to start "
            "anew"
        ) from error
    if (version, found) != (_VERSION, identity):
        raise TrainingError(
            f"{path} belongs to another training (network, data or recipe differ); use another "
            "folder, or delete it to start anew"
        )
    return state
