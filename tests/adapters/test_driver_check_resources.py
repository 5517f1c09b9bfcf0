"""What the driver refuses because data, model, room for a sequence or machine do not suit."""

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.driver_runs import RUN
from omegaconf import open_dict

from verl_ext.adapters import driver_check, machine
from verl_ext.adapters.errors import SettingsError


@pytest.fixture
def string_composition(verl_config, monkeypatch, tmp_path):
    """The configuration of a string-composition run whose data and model are there."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "string_composition"
    folder.mkdir(parents=True)
    for name in ("train.parquet", "val.parquet"):
        (folder / name).touch()
    model = "actor_rollout_ref.model.path=/some/model"
    return verl_config(*RUN, "task=string_composition", model)


def test_missing_data_is_answered_with_what_makes_it(string_composition, tmp_path):
    (tmp_path / "data" / "string_composition" / "val.parquet").unlink()
    with pytest.raises(SettingsError, match=r"data\.val_files.*verl-ext toy string_composition"):
        driver_check.check(string_composition)


@pytest.mark.parametrize("key", ["train_files", "val_files"])
def test_a_task_without_data_asks_for_it(string_composition, key):
    string_composition.data[key] = None
    with pytest.raises(SettingsError, match=rf"Add: data\.{key}=YOUR\.parquet"):
        driver_check.check(string_composition)


def test_a_data_set_of_ones_own_class_needs_no_files(string_composition):
    string_composition.data.train_files = None
    string_composition.data.custom_cls.path = "pkg://my.dataset"
    driver_check.check(string_composition)


def test_a_sequence_longer_than_a_forward_pass_is_refused_before_the_run(string_composition):
    # 1,024 + 8,192 tokens are just what the CPU scale takes; verl would stop in mid-step.
    driver_check.check(string_composition)
    string_composition.data.max_response_length = 8193
    with pytest.raises(
        SettingsError, match=r"9217 tokens do not fit .*length, or give a GPU more.*=9217"
    ):
        driver_check.check(string_composition)


@pytest.mark.parametrize("role", ["rollout", "ref"])
def test_log_probs_of_a_long_sequence_are_looked_at_too(string_composition, role):
    string_composition.actor_rollout_ref[role].log_prob_max_token_len_per_gpu = 4096
    with pytest.raises(SettingsError, match=rf"{role}\.log_prob_max_token_len_per_gpu=4096"):
        driver_check.check(string_composition)


def test_lengths_of_a_run_without_our_keys_are_its_own_affair(verl_config):
    config = verl_config(
        "+scale=cpu", "algorithm.adv_estimator=rloo", "data.max_response_length=20000"
    )
    with pytest.raises(SettingsError, match="do not fit"):
        driver_check.check(config)
    with open_dict(config):
        del config.algorithm.verl_ext
    driver_check.check(config)


def test_verls_placeholder_model_is_noticed(string_composition):
    string_composition.actor_rollout_ref.model.path = driver_check.VERLS_PLACEHOLDER
    with pytest.raises(SettingsError, match=r"Add: actor_rollout_ref\.model\.path="):
        driver_check.check(string_composition)


def test_remote_data_is_not_looked_for(string_composition):
    string_composition.data.train_files = ["hdfs://somewhere/train.parquet"]
    driver_check.check(string_composition)


def test_a_reward_known_to_give_minus_one_is_refused_before_the_run(string_composition):
    config = string_composition
    driver_check.check(config)
    config.reward.custom_reward_function.reward_kwargs.binary = False
    with pytest.raises(SettingsError, match=r"reward_kwargs\.binary=true"):
        driver_check.check(config)


def test_a_gpu_run_on_a_machine_without_one_is_told_so(verl_config):
    with pytest.raises(SettingsError, match=r"Add: \+scale=cpu"):
        driver_check.check(verl_config("+paper=w_reinforce", "+scale=gpu1"))


def test_a_cpu_run_beside_an_accelerator_is_told_how_to_leave_it_alone(verl_config, monkeypatch):
    monkeypatch.setattr(machine.cpu, "in_force", lambda: False)
    with pytest.raises(SettingsError, match="VERL_PLATFORM=cpu"):
        driver_check.check(verl_config(*RUN))


@pytest.mark.parametrize("module", ["transfer_queue", "vllm"])
def test_a_missing_package_is_named_with_its_remedy(verl_config, monkeypatch, module):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find_spec(name)
    )
    with pytest.raises(SettingsError, match=f"'{module}' is missing"):
        driver_check.check(verl_config(*RUN))
