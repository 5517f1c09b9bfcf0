"""A disk that is full in the middle of a run: by name, and the next run goes on."""

import subprocess

import pytest
from runs.launch import train

SMALL, LARGE = "9M", "64M"  # one checkpoint of the toy fits, a second does not


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def overrides(disk):
    return [
        "+paper=nsr",
        "+scale=cpu",
        f"trainer.default_local_dir={disk}/checkpoints",
        "trainer.total_training_steps=3",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
    ]


@pytest.mark.run
@pytest.mark.wide
def test_a_run_says_that_the_disk_is_full_and_resumes_when_it_is_not(tmp_path, small_disk):
    with pytest.raises(AssertionError, match="does not fit on its disk") as failed:
        train(tmp_path, *overrides(small_disk))
    assert "the last whole one is global_step_1" in str(failed.value)
    assert "DiskFullError" in str(failed.value)
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", small_disk], check=True)
    (tmp_path / "again").mkdir()
    _, steps = train(tmp_path / "again", *overrides(small_disk))
    assert set(steps) == {2, 3}
