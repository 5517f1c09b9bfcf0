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


SECTION = "+algorithm.verl_ext"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"{SECTION}.masks.zero_advantage={{}}", r"masks, in order: \[\] -> \['zero_advantage'\]"),
        (f"{SECTION}.divergence={{}}", r"verl_ext.divergence: \(not there\) -> {}"),
        (
            f"{SECTION}.group_reward.reference_probability={{concurrency: 4}}",  # of the machine
            r"group_reward.reference_probability: \(not there\) -> {}",
        ),
    ],
)
def test_a_section_that_is_empty_is_there_all_the_same(verl_config, tmp_path, override, said):
    without, with_it = verl_config(*RUN), verl_config(*RUN, override)
    state = {"settings": resume.kept(without)}
    with pytest.raises(SettingsError, match=said):
        resume.check(with_it, resume.kept(with_it), state, tmp_path)
    state = {"settings": resume.kept(with_it)}
    resume.check(with_it, resume.kept(with_it), state, tmp_path)
    with pytest.raises(SettingsError, match=r"-> (\[\]|\(not there\))"):
        resume.check(without, resume.kept(without), state, tmp_path)


def test_masks_in_another_order_are_refused(verl_config, tmp_path):
    orders = ["{aepo: {low: 0.1}, std_filter: {}}", "{std_filter: {}, aepo: {low: 0.1}}"]
    one, other = (verl_config(*RUN, f"+algorithm.verl_ext.masks={masks}") for masks in orders)
    state = {"settings": resume.kept(one)}
    resume.check(one, resume.kept(one), state, tmp_path)
    with pytest.raises(
        SettingsError, match=r"\['aepo', 'std_filter'\] -> \['std_filter', 'aepo'\]"
    ):
        resume.check(other, resume.kept(other), state, tmp_path)


def test_an_empty_list_is_none_at_all(verl_config, tmp_path):
    config = verl_config(*RUN)
    empty = ("masks={}", "sampler={}", "group_reward={}", "advantage.task_arguments={}")
    same = verl_config(*RUN, *(f"{SECTION}.{section}" for section in empty))
    resume.check(same, resume.kept(same), {"settings": resume.kept(config)}, tmp_path)


def test_a_checkpoint_from_before_that_goes_on_and_shows_what_it_knows(verl_config, tmp_path):
    masks = "+algorithm.verl_ext.masks={aepo: {low: 0.1}, zero_advantage: {}}"
    config = verl_config(*RUN, masks)
    now = resume.kept(config)
    old = {key: value for key, value in now.items() if key != resume.ORDER and value != {}}
    assert old.keys() == now.keys() - {resume.ORDER, "algorithm.verl_ext.masks.zero_advantage"}
    resume.check(config, now, {"settings": old}, tmp_path)
    with pytest.raises(SettingsError, match=r"settings:\n  data\.seed: 2 -> 1\nSet them back"):
        resume.check(config, now, {"settings": old | {"data.seed": 2}}, tmp_path)


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
