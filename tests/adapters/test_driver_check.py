"""What the driver refuses before Ray starts, and in which words: what holds for any run."""

import socket
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.driver_runs import RUN
from omegaconf import OmegaConf, open_dict

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.papers import PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_our_own_recipes_pass(verl_config, paper):
    driver_check.check(verl_config(f"+paper={paper}", "+scale=cpu"))


def test_a_run_without_any_of_our_keys_passes(verl_config):
    driver_check.check(
        verl_config("+scale=cpu", "algorithm.adv_estimator=rloo", "~algorithm.verl_ext")
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.adv_estimator=verl_ext.w_reinforc", "did you mean 'verl_ext.w_reinforce'"),
        ("algorithm.adv_estimator=grpoo", "did you mean 'grpo'"),
        ("+algorithm.verl_ext.mask={}", "algorithm.verl_ext: unknown 'mask', did you mean 'masks'"),
        ("+algorithm.verl_ext.techer={}", "unknown 'techer', did you mean 'teacher'"),
        ("+algorithm.verl_ext.masks={zero_advantag: {}}", "did you mean 'zero_advantage'"),
        ("+algorithm.verl_ext.masks={zero_advantage: {x: 1}}", "zero_advantage: unknown 'x'"),
        ("+algorithm.verl_ext.advantage.positive_wieght=1", "did you mean 'positive_weight'"),
        ("algorithm.verl_ext.advantage.positive_weight=-1", "positive_weight must be finite"),
        ("algorithm.verl_ext.advantage.positive_weight=much", "algorithm.verl_ext.advantage"),
        ("algorithm.verl_ext.not_finite=reprot", "not_finite: unknown 'reprot'.*'report'"),
        ("algorithm.verl_ext.changed_settings=acept", "changed_settings: .*did you mean 'accept'"),
        ("algorithm.verl_ext.verbose=7", "verbose must be true or false"),
        ("algorithm.verl_ext.toy=w_reinforse", "w_reinforce"),
        ("+algorithm.verl_ext.cpu={train_batch: 1}", "did you mean 'train_batch_size'"),
        ("algorithm.use_kl_in_reward=true", "use_kl_in_reward=false"),
        ("trainer.v1.trainer_mode=verl_ext.synch", "did you mean 'verl_ext.sync'"),
        ("algorithm.adv_estimator=grpo", r"Remove it: '~algorithm\.verl_ext\.advantage'"),
        ("+paper=x", "search path is inactive"),
        ("ray_kwargs.ray_init.num_cpus=4", "ray_kwargs.ray_init.num_cpus=5"),
        ("ray_kwargs.ray_init.address=127.0.0.1:1", "does not answer"),
    ],
)
def test_refusals_name_the_key_and_the_way_out(verl_config, override, message):
    if override == "+paper=x":
        config = verl_config(*RUN)
        with open_dict(config):
            config.paper = "x"
    else:
        config = verl_config(*RUN, override)
    with pytest.raises(SettingsError, match=message):
        driver_check.check(config)


@pytest.mark.parametrize("chosen", ["not_finite=report", "changed_settings=accept"])
def test_a_choice_that_only_our_trainers_heed_is_refused_under_a_stock_one(verl_config, chosen):
    stock = "trainer.v1.trainer_mode=sync"
    driver_check.check(verl_config(*RUN, stock, "algorithm.verl_ext.deterministic=false"))
    config = verl_config(
        *RUN, stock, "algorithm.verl_ext.deterministic=false", f"algorithm.verl_ext.{chosen}"
    )
    with pytest.raises(
        SettingsError, match=f"{chosen.split('=')[0]} has no effect under the stock"
    ):
        driver_check.check(config)


def test_a_cluster_that_is_there_already_is_not_given_a_size(verl_config):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray_kwargs.ray_init.address=127.0.0.1:{server.getsockname()[1]}"
        sizes = [f"ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus")]
        with pytest.raises(SettingsError, match=f"Add: {' '.join(sizes)}"):
            driver_check.check(verl_config(*RUN, address))
        with pytest.raises(SettingsError, match=f"num_gpus cannot be set .* Add: {sizes[1]}"):
            driver_check.check(verl_config(*RUN, address, sizes[0]))
        driver_check.check(verl_config(*RUN, address, *sizes))


@pytest.mark.parametrize(
    ("scale", "typed", "refused"),
    [
        ("gpu8", "+algorithm.verl_ext.cpu.lr=1e-3", True),
        ("cpu", "+algorithm.verl_ext.cpu.lr=1e-3", False),
        ("gpu8", "algorithm.verl_ext.toy=psr", True),
        ("gpu8", "+algorithm.verl_ext.preload=true", True),
        ("cpu", "algorithm.verl_ext.preload=true", False),
    ],
)
def test_what_is_typed_for_another_scale_or_task_is_refused(
    verl_config, monkeypatch, scale, typed, refused
):
    overrides = SimpleNamespace(task=["+paper=psr", f"+scale={scale}", typed])
    hydra = SimpleNamespace(overrides=overrides, runtime=SimpleNamespace(choices={"scale": scale}))
    monkeypatch.setattr(driver_check.HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(driver_check.HydraConfig, "get", staticmethod(lambda: hydra))
    config = verl_config("+paper=psr", f"+scale={scale}", typed)
    if refused:
        with pytest.raises(SettingsError, match=r"has no effect without (\+scale=cpu|task=toy)"):
            driver_check.check(config)
    else:
        driver_check.check(config)


def test_a_mask_under_a_stock_trainer_is_answered_with_the_line_to_add(verl_config):
    config = verl_config("+paper=nsr", "+scale=cpu", "trainer.v1.trainer_mode=sync")
    with pytest.raises(SettingsError, match=r"Add: trainer\.v1\.trainer_mode=verl_ext\.sync"):
        driver_check.check(config)


def test_an_estimator_that_declares_fields_is_refused_under_a_stock_trainer(verl_config):
    config = verl_config(
        "+paper=task_norm",
        "+scale=cpu",
        "algorithm.verl_ext.deterministic=false",
        "trainer.v1.trainer_mode=sync",
    )
    with pytest.raises(
        SettingsError, match=r"needs task_ids .*Add: trainer\.v1\.trainer_mode=verl_ext\.sync"
    ):
        driver_check.check(config)


def test_a_mask_under_the_legacy_trainer_is_refused(verl_config):
    config = verl_config("+paper=nsr", "+scale=cpu", "trainer.use_v1=false")
    with pytest.raises(SettingsError, match=r"Add: trainer\.use_v1=true"):
        driver_check.check(config)


def test_two_workers_fit_the_cpu_scale(verl_config):
    driver_check.check(verl_config(*RUN, "trainer.n_gpus_per_node=2"))


def test_the_check_runs_before_verls_own(verl_config):
    from verl.utils.config import validate_config

    config = verl_config(*RUN, "algorithm.adv_estimator=verl_ext.w_reinforc")
    with pytest.raises(SettingsError, match="did you mean"):
        validate_config(config, use_reference_policy=False, use_critic=False)


def test_the_plain_dictionary_of_arguments_reaches_the_function(verl_config):
    config = verl_config(*RUN, "algorithm.verl_ext.advantage.positive_weight=0.5")
    assert OmegaConf.is_dict(config.algorithm.verl_ext.advantage)
    driver_check.check(config)


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0", "1.2"])
def test_a_verl_outside_the_range_is_refused_with_the_range(version):
    from verl_ext.adapters.registration import check_version

    with pytest.raises(RuntimeError, match=r"verl-ext needs >=0\.9\.1,<0\.10"):
        check_version(version)


@pytest.mark.parametrize("version", ["0.9.1", "0.9.7"])
def test_a_verl_inside_the_range_is_taken(version):
    from verl_ext.adapters.registration import check_version

    check_version(version)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+paper=w_reinforce"], r"rollout\.name is empty.*Add: \+scale=cpu"),
        ([*RUN, "actor_rollout_ref.actor.strategy=megatron"], r"Add: model_engine=megatron"),
        (
            ["model_engine=megatron", *RUN, "actor_rollout_ref.actor.strategy=fsdp2"],
            r"strategy=fsdp2 does not choose the engine. Add: model_engine=dp",
        ),
    ],
)
def test_an_engine_that_is_none_is_refused_in_words(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*overrides))
