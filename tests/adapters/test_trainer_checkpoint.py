"""Our part of a checkpoint: what it holds, what comes back, and what is refused."""

from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.rollout import stopping
from verl_ext.adapters.trainer import checkpoint, learning


class Checkpoints(checkpoint.Checkpointed, learning.Learning):
    """Our checkpoint stage over verl's files, faked."""

    def __init__(self, config, step=0):
        super().__init__(config)
        self.step = step


class Files:
    def __init__(self, config):
        self.config, self.global_steps, self.seen = config, 0, []

    def _save_checkpoint(self):
        folder = self.folder()
        self.seen = sorted(path.name for path in folder.iterdir())
        (folder / "data.pt").write_text("")

    def _load_checkpoint(self):
        self.global_steps = self.step

    def folder(self):
        from pathlib import Path

        return Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"


class Resumable(Checkpoints, Files):
    pass


def checkpointed(folder, step=0, masks=None, mode="sync", **more):
    config = OmegaConf.create(
        {
            "trainer": {
                "default_local_dir": str(folder),
                "resume_mode": "auto",
                "v1": {"trainer_mode": mode},
                **more,
            },
            "algorithm": {
                "use_kl_in_reward": False,
                "adv_estimator": "grpo",
                "verl_ext": {"masks": masks or {}},
            },
        }
    )
    return Resumable(config, step)


AEPO = {"aepo": {"low": 0.1, "high": 0.4}}


def saved_with_the_gate_on(folder):
    made = checkpointed(folder, masks=AEPO)
    made.ext_masks.masks["aepo"]._gate.update(0.5)
    made.global_steps = 3
    made._save_checkpoint()
    return made


def test_our_part_of_a_checkpoint_is_there_before_verl_writes_its_tracker(tmp_path):
    assert saved_with_the_gate_on(tmp_path).seen == ["verl_ext.pt"]


@pytest.mark.parametrize("by_path", [False, True])
def test_a_resumed_trainer_has_its_gates_back(tmp_path, by_path):
    saved_with_the_gate_on(tmp_path)
    more = {}
    if by_path:
        path = str(tmp_path / "global_step_3")
        more = {"resume_mode": "resume_path", "resume_from_path": path}
    resumed = checkpointed(tmp_path / "elsewhere" if by_path else tmp_path, 3, AEPO, **more)
    resumed._load_checkpoint()
    assert resumed.ext_masks.masks["aepo"]._gate.on


def test_a_run_that_begins_loads_nothing(tmp_path):
    checkpointed(tmp_path, masks=AEPO)._load_checkpoint()


def test_what_a_checkpoint_does_not_know_starts_anew_and_is_said(tmp_path, capsys):
    (tmp_path / "global_step_3").mkdir()
    checkpointed(tmp_path, 3, AEPO)._load_checkpoint()
    assert (
        "has no verl_ext.pt; starts anew: mask aepo, the trainer's random"
        in capsys.readouterr().out
    )


def test_a_checkpoint_without_the_position_in_the_data_is_refused(tmp_path):
    saved_with_the_gate_on(tmp_path)
    (tmp_path / "global_step_3" / "data.pt").unlink()
    with pytest.raises(SettingsError, match=r"lacks data\.pt"):
        checkpointed(tmp_path, 3, AEPO)._load_checkpoint()


def test_settings_are_those_from_before_a_stage_wrote_into_them(tmp_path):
    made = checkpointed(tmp_path)
    made.config.algorithm.adv_estimator = "rloo"
    assert made.ext_state()["settings"]["algorithm.adv_estimator"] == "grpo"


def test_a_trainer_that_resumes_with_other_settings_is_stopped(tmp_path):
    saved_with_the_gate_on(tmp_path)
    other = {"aepo": {"low": 0.2, "high": 0.4}}
    with pytest.raises(SettingsError, match=r"masks\.aepo\.low: 0\.1 -> 0\.2"):
        checkpointed(tmp_path, 3, other)._load_checkpoint()


def test_the_adaptive_kl_coefficient_is_kept(tmp_path):
    def made(step, coefficient):
        trainer_of = checkpointed(tmp_path, step)
        trainer_of.config.algorithm.use_kl_in_reward = True
        trainer_of.kl_ctrl_in_reward = SimpleNamespace(value=coefficient)
        return trainer_of

    first = made(0, 0.125)
    first.global_steps = 3
    first._save_checkpoint()
    second = made(3, 0.5)
    second._load_checkpoint()
    assert second.kl_ctrl_in_reward.value == 0.125


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_the_word_that_has_stopped_a_run_does_not_stop_it_again(tmp_path, monkeypatch, mode):
    """The asynchronous trainers' checkpoints have the whole queue in them."""
    queue = {stopping.PARTITION: {"worker": {"error": "timed out"}}, "train": {"a_0_0": {}}}

    def kv_list(partition_id):
        return {partition_id: queue.get(partition_id, {})}

    def kv_clear(keys, partition_id):
        for key in keys:
            del queue[partition_id][key]

    monkeypatch.setattr(stopping, "tq", SimpleNamespace(kv_list=kv_list, kv_clear=kv_clear))
    saved_with_the_gate_on(tmp_path)
    checkpointed(tmp_path, 3, AEPO, mode)._load_checkpoint()
    assert queue["train"]
    assert bool(queue[stopping.PARTITION]) == (mode == "sync")
