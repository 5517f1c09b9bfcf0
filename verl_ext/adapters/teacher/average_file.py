"""An averaged teacher's weights beside verl's checkpoint of the actor, one file a rank."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from verl_ext.adapters.errors import SettingsError
from verl_ext.self_teaching.ema import Ema

PREFIX = "verl_ext_ema_world_size_"
REMEDY = (
    "Resume with the layout it was saved with, or let the policy be its own teacher as it is: "
    "algorithm.verl_ext.teacher.source=self"
)


def file_of_rank(folder: str | Path) -> Path:
    """The name that this rank's part has."""
    return Path(folder) / f"{PREFIX}{dist.get_world_size()}_rank_{dist.get_rank()}.pt"


def save(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Writes this rank's part; a killed process leaves no half of a file.

    Args:
        folder: the actor's, made if it is not there.
        state: of an :class:`Ema`.
    """
    target = file_of_rank(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    torch.save(dict(state), partial)
    os.replace(partial, target)


def load(folder: str | Path, average: Ema) -> None:
    """Reads this rank's part into the average; one that nobody saved stays as it is, and says so.

    Raises:
        SettingsError: other ranks have saved theirs, or the file is damaged or of other shards.
    """
    file = file_of_rank(folder)
    if not file.exists():
        others = sorted(path.name for path in Path(folder).glob(f"{PREFIX}*.pt"))
        if others:
            raise SettingsError(
                f"{folder} has no {file.name}: its averaged teacher was saved by other ranks "
                f"({others[0]}, ...). {REMEDY}"
            )
        if dist.get_rank() == 0:
            print(f"[verl_ext] {folder} has no averaged teacher; it starts anew from the policy")
        return
    try:
        average.load_state_dict(torch.load(file, weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise SettingsError(f"{file}: {error}. {REMEDY}") from error
