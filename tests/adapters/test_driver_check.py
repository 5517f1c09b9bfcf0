"""What the driver refuses before Ray starts, and in which words."""

import socket
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf, open_dict

from verl_ext.adapters import driver_check, machine
from verl_ext.adapters.errors import SettingsError
from verl_ext.papers import PAPERS

RUN = ("+paper=w_reinforce", "+scale=cpu")


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


STD = ("+paper=std_filter", "+scale=cpu", "algorithm.adv_estimator=grpo")
FILTER = "algorithm.verl_ext.masks.std_filter"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{FILTER}.mode=resampel"], r"std_filter: mode must be .*did you mean 'resample'"),
        ([f"+{FILTER}.warmup_form=2"], r"unknown 'warmup_form', did you mean 'warmup_from'"),
        ([f"{FILTER}.beta=-1"], r"std_filter: beta must be finite"),
        ([f"{FILTER}.beta=low"], r"std_filter: "),
        ([f"{FILTER}.decay=1.5"], r"std_filter: decay must be in"),
        ([f"{FILTER}.warmup_to=5"], r"std_filter: warmup_from and warmup_to must be"),
        ([f"{FILTER}.max_gen_batches=0.5"], r"std_filter: max_gen_batches must be"),
        ([f"{FILTER}.task_multipliers={{math: 0}}"], r"task_multipliers\['math'\] must be > 0"),
        ([f"{FILTER}.denominator=all"], r"denominator=all has no effect with mode=resample"),
        ([f"{FILTER}.mode=mask", f"{FILTER}.max_gen_batches=3"], r"no effect with mode=mask"),
        (
            [f"{FILTER}.mode=mask", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"],
            r"Add: actor_rollout_ref\.actor\.loss_agg_mode=token-mean",
        ),
        (["actor_rollout_ref.rollout.n=1"], r"there is one of each.*rollout\.n=8"),
        (["algorithm.filter_groups.enable=true"], r"same job\. Add: .*filter_groups\.enable=false"),
        (
            ["reward.reward_model.enable=true"],
            r"colocated reward model .*enable_resource_pool=true, or .*mode=mask",
        ),
        (
            ["trainer.v1.sampler.custom_sampler.path=a.py"],
            r"a\.py is asked for\. Add: trainer\.v1\.sampler\.custom_sampler\.path=null",
        ),
        (["+data.gen_batch_size=4"], r"gen_batch_size=4 has no effect"),
        (["+algorithm.verl_ext.test_time={}"], r"test_time asks one question"),
        (["trainer.v1.trainer_mode=sync"], r"Add: trainer\.v1\.trainer_mode=verl_ext\.sync"),
    ],
)
def test_refusals_of_the_std_filter(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*STD, *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{FILTER}.task_multipliers={{math: 2.0, code: 1.0}}"],
        [f"{FILTER}.mode=mask", f"{FILTER}.denominator=all"],
        # What the replay buffer's filter cannot have, a mask can.
        [
            f"{FILTER}.mode=mask",
            "algorithm.filter_groups.enable=true",
            "reward.reward_model.enable=true",
        ],
        ["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"],
        [
            "trainer.v1.trainer_mode=verl_ext.colocate_async",
            "algorithm.verl_ext.deterministic=false",
        ],
    ],
)
def test_what_the_std_filter_can_be_combined_with_passes(verl_config, overrides):
    driver_check.check(verl_config(*STD, *overrides))


RLPR = "algorithm.verl_ext.group_reward.reference_probability"
UNFILTERED = f"{FILTER}.mode=mask"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{RLPR}.mode=trainr"], r"reference_probability: mode must be .*did you mean 'trainer'"),
        (["+algorithm.verl_ext.group_reward.rlpr={}"], r"group_reward: unknown 'rlpr'"),
        ([f"{RLPR}.format.weight=2"], r"format: weight must be in"),
        ([f"{RLPR}.debias=refresh"], r"refresh_every=None and debias=refresh"),
        ([f"{RLPR}.reduction=mean_log_prob", f"{RLPR}.debias=none"], r"needs debias"),
        (
            [f"{RLPR}.weights.default={{probability: 0, verifier: 1}}"],
            r"no weight anywhere, so the section has no effect",
        ),
        (["algorithm.adv_estimator=verl_ext.w_reinforce"], r"gives probabilities\. Add: .*=grpo"),
        (["actor_rollout_ref.rollout.name=trtllm"], r"mode=rollout .*Add: .*mode=trainer"),
        ([UNFILTERED, "reward.reward_model.enable=true"], r"enable_resource_pool=true"),
        ([f"{RLPR}.mode=trainer"], r"std_filter\.mode=resample needs rewards while"),
        (
            [UNFILTERED, f"{RLPR}.mode=trainer", "algorithm.filter_groups.enable=true"],
            r"filter_groups\.enable needs rewards while .*Add: .*mode=rollout",
        ),
        ([UNFILTERED, "trainer.v1.trainer_mode=sync"], r"Add: .*trainer_mode=verl_ext\.sync"),
        (
            ["actor_rollout_ref.rollout.multi_turn.tool_config_path=tools.yaml"],
            r"tool_config_path adds tools to it\. Add: .*debias=none",
        ),
    ],
)
def test_refusals_of_the_reference_probability(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config("+paper=rlpr", "+scale=cpu", *overrides))


def test_the_reference_probability_is_given_by_the_engine_where_nothing_is_filtered(verl_config):
    driver_check.check(verl_config("+paper=rlpr", "+scale=cpu", UNFILTERED, f"{RLPR}.mode=trainer"))


def test_a_mask_under_a_stock_trainer_is_answered_with_the_line_to_add(verl_config):
    config = verl_config("+paper=nsr", "+scale=cpu", "trainer.v1.trainer_mode=sync")
    with pytest.raises(SettingsError, match=r"Add: trainer\.v1\.trainer_mode=verl_ext\.sync"):
        driver_check.check(config)


LONG = ("+paper=qwenlong_l15", "+scale=cpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.v1.trainer_mode=colocate_async",
            r"Add: trainer\.v1\.trainer_mode=verl_ext\.coloc",
        ),
        ("algorithm.verl_ext.masks.aepo.low=0.1", "both numbers .* or both 'auto'"),
        ("algorithm.verl_ext.masks.aepo.gate=on", "gate must be one of hysteresis, readme_band"),
        ("algorithm.verl_ext.masks.aepo.gate=off", "masks nothing"),
        ("algorithm.verl_ext.masks.aepo.gate=readme_band", "needs numbers for low and high"),
        ("algorithm.verl_ext.masks.aepo.denominator=some", "denominator must be one of all, kept"),
        ("algorithm.verl_ext.masks.aepo.reduction=row", "reduction must be one of sequence, token"),
        ("algorithm.verl_ext.masks.aepo.token_threshold=-1", "token_threshold must be a finite"),
        ("algorithm.verl_ext.masks.aepo.calibration_steps=0", "calibration_steps must be >= 1"),
        ("algorithm.verl_ext.masks.aepo.low_quantile=0.95", "in this order"),
        ("+algorithm.verl_ext.masks.aepo.hi=1", "aepo: unknown 'hi', did you mean 'high'"),
        ("algorithm.rollout_correction.bypass_mode=true", r"bypass_mode=false"),
        ("algorithm.verl_ext.advantage.singleton=none", "singleton must be one of zero, paper"),
        ("algorithm.verl_ext.advantage.eps=0", "eps must be finite and > 0"),
        ("+algorithm.verl_ext.sampler.balanced={}", "did you mean 'task_balanced'"),
        ("+algorithm.verl_ext.sampler.task_balanced.weight=x", "did you mean 'weights'"),
        ("algorithm.verl_ext.sampler.task_balanced.weights=even", "weights must be 'uniform'"),
        ("algorithm.verl_ext.sampler.task_balanced.weights={a: 0.5, b: 0.4}", "sum to 0.9"),
        ("data.dataloader_num_workers=2", r"Add: data\.dataloader_num_workers=0"),
        ("algorithm.verl_ext.deterministic=1", "deterministic must be true or false"),
        ("trainer.v1.trainer_mode=verl_ext.colocate_async", r"deterministic=false"),
        ("data.seed=null", r"Add: data\.seed=1"),
        ("actor_rollout_ref.rollout.enable_chunked_prefill=true", "enable_chunked_prefill=false"),
        ("actor_rollout_ref.rollout.enable_prefix_caching=true", "enable_prefix_caching=false"),
        (
            "+reward.custom_reward_function.reward_kwargs.scales.toy_point=10",
            r"reward_kwargs\.scales: .*toy_points",
        ),
        (
            "+reward.custom_reward_function.reward_kwargs.scales.toy_exact=0",
            "must be a finite number > 0",
        ),
        ("+reward.custom_reward_function.reward_kwargs.scales.toy=10", "unknown 'toy'"),
        (
            "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=my.Manager",
            r"my\.Manager is asked for",
        ),
    ],
)
def test_refusals_of_the_long_context_recipe(verl_config, override, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*LONG, override))


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


def test_aepo_over_kept_tokens_without_a_token_mean_would_have_no_effect(verl_config):
    loss = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"
    driver_check.check(verl_config(*LONG, loss))
    kept = "algorithm.verl_ext.masks.aepo.denominator=kept"
    with pytest.raises(SettingsError, match="loss_agg_mode=token-mean"):
        driver_check.check(verl_config(*LONG, loss, kept))


def test_a_mask_under_the_legacy_trainer_is_refused(verl_config):
    config = verl_config("+paper=nsr", "+scale=cpu", "trainer.use_v1=false")
    with pytest.raises(SettingsError, match=r"Add: trainer\.use_v1=true"):
        driver_check.check(config)


def test_zero_advantage_without_a_token_mean_would_have_no_effect(verl_config):
    config = verl_config(
        "+paper=nsr", "+scale=cpu", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum"
    )
    with pytest.raises(SettingsError, match=r"loss_agg_mode=token-mean"):
        driver_check.check(config)


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
    with pytest.raises(SettingsError, match=r"9217 tokens do not fit .*ppo_max_token_len.*=9217"):
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


def test_a_stage_of_the_long_context_recipe_is_refused_on_a_cpu(verl_config):
    with pytest.raises(SettingsError, match="174080 tokens do not fit"):
        driver_check.check(verl_config(*LONG, "task=qwenlong_l15_stage3"))


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
