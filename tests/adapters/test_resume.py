"""A run is resumed with the settings it was saved with, or refused with what has changed."""

import inspect
from pathlib import Path

import pytest
import verl  # loads the plugin  # noqa: F401

from verl_ext.adapters import driver_check, resume, state_file
from verl_ext.adapters.errors import SettingsError

RUN = ("+paper=task_norm", "+scale=cpu")


def saved(config, folder, step=3):
    """A checkpoint, with verl's tracker beside it."""
    made = Path(folder) / f"global_step_{step}"
    state_file.save(made, {"settings": resume.kept(config)})
    (Path(folder) / resume.TRACKER).write_text(str(step))
    return made


@pytest.fixture
def resumed(verl_config, tmp_path):
    """Checks a run that resumes from one saved under RUN."""
    there = f"trainer.default_local_dir={tmp_path}"
    folder = saved(verl_config(*RUN, there), tmp_path)

    def check(*overrides):
        resume.check_early(verl_config(*RUN, there, *overrides))

    check.folder = folder
    return check


def test_equal_settings_go_on(resumed):
    resumed()


def test_settings_of_the_machine_may_change(resumed):
    resumed(
        "algorithm.verl_ext.verbose=true",
        "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.actor.optim.lr=1e-7",
        "+algorithm.verl_ext.cpu={lr: 1e-3}",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("algorithm.verl_ext.advantage.eps=1e-3", r"verl_ext.advantage.eps: 1e-06 -> 0.001"),
        ("data.seed=7", "data.seed: 1 -> 7"),
        ("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.n: 8 -> 4"),
        ("+algorithm.verl_ext.masks.aepo={low: 0.1}", r"masks.aepo.low: \(not there\) -> 0.1"),
        ("algorithm.gamma=0.9", "algorithm.gamma: 1.0 -> 0.9"),
    ],
)  # fmt: skip
def test_a_changed_setting_is_refused_with_both_values(resumed, override, said):
    with pytest.raises(SettingsError, match=f"(?s){resumed.folder} was saved .*{said}"):
        resumed(override)


def test_every_change_is_shown_and_there_are_two_ways_out(resumed):
    with pytest.raises(SettingsError) as refusal:
        resumed("data.seed=7", "actor_rollout_ref.rollout.n=4")
    words = str(refusal.value)
    assert words.count(" -> ") == 2
    assert f"++{resume.KEY}=accept" in words
    assert "trainer.resume_mode=disable" in words


def test_changes_can_be_accepted_and_are_told(resumed, capsys):
    resumed("data.seed=7", f"++{resume.KEY}=accept")
    assert "with other settings:\n  data.seed: 1 -> 7" in capsys.readouterr().out


def test_a_run_that_begins_anew_is_not_asked(resumed):
    resumed("data.seed=7", "trainer.resume_mode=disable")


def test_a_checkpoint_named_by_its_path_is_compared_too(resumed, tmp_path):
    elsewhere = f"trainer.default_local_dir={tmp_path}/elsewhere"
    by_path = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={resumed.folder}")
    resumed(elsewhere, *by_path)
    with pytest.raises(SettingsError, match=r"data\.seed: 1 -> 7"):
        resumed(elsewhere, *by_path, "data.seed=7")


@pytest.mark.parametrize("path", ["null", "{}", "{}/checkpoint", "{}/global_step_3/"])
def test_a_path_that_verl_reads_no_step_off_is_refused_with_what_to_type(resumed, tmp_path, path):
    """verl asks for it by an assertion or int(), after the models have loaded."""
    by_path = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}")
    with pytest.raises(SettingsError, match=r"Add: trainer\.resume_from_path=\.\.\./global_step_N"):
        resumed(*(each.format(tmp_path) for each in by_path))


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(resumed, tmp_path):
    by_path = ("trainer.resume_mode=resume_path", "trainer.resume_from_path={}/global_step_7")
    with pytest.raises(SettingsError, match=rf"no folder .*step_7\. There are: {resumed.folder}$"):
        resumed(*(each.format(tmp_path) for each in by_path))
    with pytest.raises(SettingsError, match=r"no folder .*Add: trainer\.resume_from_path="):
        resumed(*(each.format(tmp_path / "elsewhere") for each in by_path))


def test_a_mode_of_resuming_that_verl_does_not_know_is_refused(resumed):
    with pytest.raises(SettingsError, match="resume_mode: unknown 'atuo', did you mean 'auto'"):
        resumed("trainer.resume_mode=atuo")


def test_a_checkpoint_of_an_older_version_is_taken_as_it_is(verl_config, tmp_path):
    folder = saved(verl_config(*RUN), tmp_path)
    state_file.save(folder, {"masks": {}})
    resume.check_early(verl_config(*RUN, f"trainer.default_local_dir={tmp_path}", "data.seed=7"))


def test_a_damaged_checkpoint_is_told_before_anything_is_loaded(resumed):
    file = resumed.folder / state_file.FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SettingsError, match="is damaged"):
        resumed()


def test_the_trainer_looks_too_where_the_driver_cannot(verl_config, tmp_path):
    config = verl_config(*RUN)
    state = {"settings": resume.kept(config) | {"data.seed": 2}}
    with pytest.raises(SettingsError, match=r"data\.seed: 2 -> 1"):
        resume.check(config, resume.kept(config), state, tmp_path)


def test_the_driver_asks_last_when_the_configuration_is_whole():
    source = inspect.getsource(driver_check.check_and_prepare)
    assert source.index("resume.check_early(") > source.index("tournament_check.prepare(")
