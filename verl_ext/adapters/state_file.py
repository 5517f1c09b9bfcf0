"""What a resumed run needs beside verl's own checkpoint: gates, positions, generators."""

import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verl_ext.adapters.errors import SettingsError

FILE = "verl_ext.pt"
VERSION = 1


def save(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Writes the state into a checkpoint's folder; a killed process leaves no half of a file.

    Args:
        folder: ``.../global_step_<n>``, made if it is not there.
        state: plain types and tensors.
    """
    target = Path(folder) / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    torch.save({"version": VERSION, **state}, partial)
    os.replace(partial, target)


def load(folder: str | Path) -> dict[str, Any] | None:
    """Reads the state; None for a checkpoint without one, as verl's stock trainers write it.

    Raises:
        SettingsError: the file is damaged, or of another version of verl-ext.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SettingsError(
            f"{file} is damaged ({error}). Resume from another checkpoint: "
            "trainer.resume_mode=resume_path trainer.resume_from_path=.../global_step_N"
        ) from error
    if state.get("version") != VERSION:
        raise SettingsError(
            f"{file} has version {state.get('version')}, this verl-ext reads {VERSION}"
        )
    return state


def generators() -> dict[str, Any]:
    """The state of this process's global generators: Python's, NumPy's and torch's."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }


def restore_generators(state: Mapping[str, Any]) -> None:
    """Sets the generators to what :func:`generators` saw."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])


def seed_generators(seed: int) -> None:
    """Seeds the global generators of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
