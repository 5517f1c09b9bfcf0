"""A resumed run goes on with the settings it was saved with, or is refused with what has changed.

Thresholds, averages, quotas and seeds mean what they do under the settings they were found with.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters import state_file
from verl_ext.adapters.errors import SettingsError, refuse_unknown

KEY = "algorithm.verl_ext.changed_settings"
CHOICES = ("refuse", "accept")
KEPT = (
    "algorithm",
    "data.seed",
    "data.train_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
)
# Of this machine, or of how patient a run is: no number depends on them.
FREE = {
    "verbose", "preload", "toy", "cpu", "changed_settings", "not_finite",
    "urls", "base_url", "api_key_env", "cache", "concurrency", "faults",
    "timeout_s", "attempts", "backoff_s", "max_backoff_s", "breaker",
}  # fmt: skip
MODES = ("auto", "disable", "resume_path")  # verl's
STEP = re.compile(r".*global_step_\d+")
# Sections that say no more when they are empty than when they are not there.
SILENT = {
    "verl_ext", "advantage", "task_arguments", "group_reward", "masks", "sampler", "hints", "texts",
}  # fmt: skip
ORDER = "algorithm.verl_ext.masks, in order"  # no key: the order of keys
TRACKER = "latest_checkpointed_iteration.txt"  # verl's
Settings = dict[str, Any]


def kept(config: DictConfig) -> Settings:
    """The settings that a checkpoint holds its run to, as dotted key -> value.

    Args:
        config: verl's whole configuration.
    """
    found: Settings = {}
    for key in KEPT:
        value = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        found.update(_leaves(key, value))
    masks = OmegaConf.select(config, "algorithm.verl_ext.masks")
    return found | {ORDER: list(masks or {})}


def check(config: DictConfig, now: Settings, state: Mapping[str, Any], folder: Path) -> None:
    """Refuses to go on with other settings; says what has changed where that is wanted.

    Args:
        config: verl's whole configuration.
        now: the settings that :func:`kept` found before the trainer wrote into them.
        state: our part of the checkpoint; one without settings is of an older version.
        folder: of the checkpoint.

    Raises:
        SettingsError: names each key with both values.
    """
    settings = config.algorithm.get("verl_ext") or {}
    before = state.get("settings")
    changed = list(_changes(before, _as_saved(now, before))) if before is not None else []
    if not changed:
        return
    lines = "\n  ".join(changed)
    if settings.get("changed_settings") != "accept":
        raise SettingsError(
            f"{folder} was saved with other settings:\n  {lines}\n"
            f"Set them back, or go on with the new ones: ++{KEY}=accept. "
            "To begin anew: trainer.resume_mode=disable"
        )
    print(f"[verl_ext] goes on from {folder} with other settings:\n  {lines}")


def check_early(config: DictConfig) -> None:
    """The same in the driver, where it can see the checkpoint: before anything is loaded.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: see :func:`check`; there is no such checkpoint; or our part of it is damaged.
    """
    folder = _folder(config)
    state = state_file.load(folder) if folder is not None else None
    if folder is not None and state is not None:
        check(config, kept(config), state, folder)


def _folder(config: DictConfig) -> Path | None:
    """Where verl will resume from; None where it begins."""
    trainer = config.trainer
    refuse_unknown("trainer.resume_mode", [trainer.resume_mode], MODES)
    if trainer.resume_mode == "resume_path":
        return _named(trainer.resume_from_path)
    tracker = Path(trainer.default_local_dir) / TRACKER
    if trainer.resume_mode != "auto" or not tracker.is_file():
        return None
    return tracker.parent / f"global_step_{tracker.read_text().strip()}"


def _named(path: str | None) -> Path:
    """The checkpoint of that path; verl reads the step off the end of it."""
    key = "trainer.resume_from_path"
    if path is None or not STEP.fullmatch(str(path)):
        raise SettingsError(
            f"{key}={path}: with trainer.resume_mode=resume_path it is the folder of a checkpoint, "
            f"and ends in its step. Add: {key}=.../global_step_N"
        )
    folder = Path(path)
    if not folder.is_dir():
        there = sorted(str(found) for found in folder.parent.glob("global_step_*"))
        raise SettingsError(
            f"{key}: there is no folder {path}. "
            + (f"There are: {', '.join(there)}" if there else f"Add: {key}=.../global_step_N")
        )
    return folder


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values; a section of which nothing counts is one, since it switches something on."""
    name = key.rpartition(".")[2]
    if name in FREE:
        return
    if not isinstance(value, Mapping):
        yield key, value
        return
    inside = [leaf for part in value for leaf in _leaves(f"{key}.{part}", value[part])]
    yield from inside or ([] if name in SILENT else [(key, {})])


def _as_saved(now: Settings, before: Settings) -> Settings:
    """What a checkpoint that knows no order of the masks, nor empty sections, would have of now."""
    if ORDER in before:
        return now
    return {key: value for key, value in now.items() if key != ORDER and value != {}}


def _changes(before: Settings, now: Settings) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        one, other = (side.get(key, "(not there)") for side in (before, now))
        if one != other:
            yield f"{key}: {one} -> {other}"
