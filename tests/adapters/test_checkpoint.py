"""A checkpoint that cannot be written has a name, and what was written before stays."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from verl_ext.adapters import resume, state_file
from verl_ext.adapters.trainer import checkpoint
from verl_ext.adapters.trainer.checkpoint import Checkpointed, DiskFullError


class Verl:
    """verl's part of a trainer."""

    failure = None

    def __init__(self, config):
        self.config = config
        self.global_steps = 3
        self.written = []

    def _save_checkpoint(self):
        if self.failure:
            raise self.failure
        self.written.append(self.global_steps)

    def ext_state(self):
        return {}


class Trainer(Checkpointed, Verl):
    """Ours on top."""

    def ext_state(self):
        return {"mine": 1}


@pytest.fixture
def trainer(tmp_path):
    return Trainer(OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path)}}))


@pytest.fixture
def left(monkeypatch):
    """Sets the bytes that are left on the disk."""

    def leave(free):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: usage)

    return leave


def test_ours_is_written_before_verls(trainer, tmp_path):
    trainer._save_checkpoint()
    assert state_file.load(tmp_path / "global_step_3")["mine"] == 1
    assert trainer.written == [3]


@pytest.mark.parametrize("failure", [RuntimeError("file write failed"), OSError("28")])
@pytest.mark.parametrize("whole", [None, "2"])
def test_a_full_disk_is_named_with_the_last_whole_checkpoint(
    trainer, tmp_path, left, failure, whole
):
    left(4096)
    trainer.failure = failure
    if whole:
        (tmp_path / resume.TRACKER).write_text(whole)
    last = "the last whole one is global_step_2" if whole else "there is no whole one yet"
    with pytest.raises(
        DiskFullError, match=f"global_step_3 does not fit .* 4096 bytes left; {last}"
    ):
        trainer._save_checkpoint()


def test_another_failure_stays_what_it_is(trainer, left):
    left(2**30)
    trainer.failure = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        trainer._save_checkpoint()
