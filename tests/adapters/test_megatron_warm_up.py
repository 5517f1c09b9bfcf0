"""Megatron's schedule wants steps after its warm-up: the driver says so, in words."""

import inspect
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401

from verl_ext.adapters import megatron
from verl_ext.adapters.errors import SettingsError

RUN = ("model_engine=megatron", "+paper=w_reinforce", "+scale=cpu")
WARM_UP = "actor_rollout_ref.actor.optim.lr_warmup_steps"
DECAY = "actor_rollout_ref.actor.optim.lr_decay_steps"
STEPS = "trainer.total_training_steps"


@pytest.fixture
def check(verl_config):
    def checked(*overrides):
        config = verl_config(*RUN, *overrides)
        megatron.check(config, on_cpu=True, workers_share_packages=True)

    return checked


def test_a_warm_up_without_steps_after_it_is_refused(check):
    with pytest.raises(SettingsError, match=rf"=10 is all of the 2 steps.* Add: {WARM_UP}=1"):
        check(f"{WARM_UP}=10", f"{STEPS}=2")
    with pytest.raises(SettingsError, match="=10 is all of the 10 steps"):
        check(f"{WARM_UP}=10", f"{DECAY}=10", f"{STEPS}=20")
    check(f"{WARM_UP}=10", f"{DECAY}=20", f"{STEPS}=10")
    check(f"{WARM_UP}=1", f"{STEPS}=2")
    check(f"{WARM_UP}=10", f"{STEPS}=null")  # an epoch's, unknown


def test_a_warm_up_that_is_a_ratio_is_refused_when_it_is_all(check):
    with pytest.raises(SettingsError, match=rf"_ratio=1.0 is all .* Add: {WARM_UP}_ratio=0"):
        check(f"{WARM_UP}=-1", f"{WARM_UP}_ratio=1.0", f"{STEPS}=2")
    check(f"{WARM_UP}=-1", f"{WARM_UP}_ratio=0.9", f"{STEPS}=2")
    check(f"{WARM_UP}=1", f"{WARM_UP}_ratio=1.0", f"{STEPS}=2")  # steps come first


def test_under_separate_async_the_schedule_has_a_step_for_each_update(check):
    """verl multiplies: test_verl_counts_a_step_of_the_schedule_for_each_update."""
    apart = "trainer.v1.trainer_mode=verl_ext.separate_async"
    check(apart, f"{WARM_UP}=3", f"{STEPS}=2")  # two updates a step
    with pytest.raises(SettingsError, match=rf"=4 is all of the 4 steps.* Add: {WARM_UP}=3"):
        check(apart, f"{WARM_UP}=4", f"{STEPS}=2")
    with pytest.raises(SettingsError, match="=3 is all of the 2 steps"):
        check(f"{WARM_UP}=3", f"{STEPS}=2")
    with pytest.raises(SettingsError, match="=3 is all of the 2 steps"):
        check(apart, f"{WARM_UP}=3", f"{STEPS}=2", "trainer.use_v1=false")
    check(apart, f"{WARM_UP}=10", f"{STEPS}=null")


def test_verl_counts_a_step_of_the_schedule_for_each_update():
    from verl.trainer.ppo.v1 import trainer_base

    base = inspect.getsource(trainer_base.PPOTrainer)
    assert 'v1.get(self.trainer_mode, {}).get("parameter_sync_step", 1)' in base
    assert "total_training_steps * self.parameter_sync_step" in base


def test_megatrons_schedule_still_refuses_it_without_words():
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    with pytest.raises(AssertionError, match=r"^$"):
        OptimizerParamScheduler(
            SimpleNamespace(param_groups=[]),
            0.0,
            1e-3,
            0.0,
            2,
            2,
            "constant",
            0.0,
            0.0,
            2,
            "constant",
        )
