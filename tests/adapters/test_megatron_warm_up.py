"""Megatron's schedule wants steps after its warm-up: the driver says so, in words."""

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
