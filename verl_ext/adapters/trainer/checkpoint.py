"""Our part of a checkpoint: written beside verl's, read back when verl resumes."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters import resume, state_file
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.rollout import stopping
from verl_ext.adapters.trainer.stage import Stage

LITTLE = 16 * 2**20  # bytes; who fails to write with less than that left has no space


class DiskFullError(OSError):
    """A checkpoint could not be written for want of space."""


class Checkpointed(Stage):
    """Saves and restores what the stages name, and the generators of this process."""

    def __init__(self, config: DictConfig) -> None:
        self._ext_settings = resume.kept(config)  # before stages write into it
        super().__init__(config)  # type: ignore[call-arg]

    def _save_checkpoint(self) -> None:
        """Ours first: verl writes its tracker last, so a checkpoint it names is complete.

        Raises:
            DiskFullError: it does not fit; verl's writers say "file write failed", or nothing.
        """
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        try:
            state_file.save(folder, self.ext_state())
            super()._save_checkpoint()  # type: ignore[misc]
        except (OSError, RuntimeError) as error:  # of a worker: Ray's error is one of its kind
            left = shutil.disk_usage(folder.parent).free
            if left > LITTLE:
                raise
            raise DiskFullError(errno.ENOSPC, _full(folder, left)) from error

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()  # type: ignore[misc]
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        if trainer.v1.trainer_mode != "sync":  # else the queue is in no checkpoint
            stopping.forget()
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        state = state_file.load(folder)
        if state and not (folder / "data.pt").exists():
            raise SettingsError(
                f"{folder} lacks data.pt, verl's position in the data; without it the data "
                "would begin anew. Resume from another checkpoint: trainer.resume_mode=resume_path "
                "trainer.resume_from_path=.../global_step_N"
            )
        resume.check(self.config, self._ext_settings, state or {}, folder)
        anew = self.ext_restore(state or {})
        if anew:
            why = f"{folder} was saved without" if state else f"{folder} has no {state_file.FILE}"
            print(f"[verl_ext] {why}; starts anew: {', '.join(anew)}")

    def ext_state(self) -> dict[str, Any]:
        """Adds what verl does not save: generators, settings, its adaptive KL coefficient."""
        saved = super().ext_state() | {
            "generators": state_file.generators(),
            "settings": self._ext_settings,
        }
        if self.config.algorithm.use_kl_in_reward:
            saved["kl_coef"] = float(self.kl_ctrl_in_reward.value)
        return saved

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes both up; see :class:`Stage`."""
        anew = super().ext_restore(state)
        if "generators" in state:
            state_file.restore_generators(state["generators"])
        else:
            anew.append("the trainer's random generators")
        if self.config.algorithm.use_kl_in_reward:
            if "kl_coef" in state:
                self.kl_ctrl_in_reward.value = state["kl_coef"]
            else:
                anew.append("the KL coefficient")
        return anew


def _full(folder: Path, left: int) -> str:
    tracker = folder.parent / resume.TRACKER
    whole = f"global_step_{tracker.read_text().strip()}" if tracker.exists() else None
    last = f"the last whole one is {whole}" if whole else "there is no whole one yet"
    return (
        f"the checkpoint {folder} does not fit on its disk, which has {left} bytes left; {last}. "
        "Make space (trainer.max_actor_ckpt_to_keep=N keeps the last N) and start the same command "
        "again: it resumes from there"
    )
