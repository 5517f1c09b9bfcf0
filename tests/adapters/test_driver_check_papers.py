"""What the driver refuses of the settings of one paper: filter, reference probability, masks."""

import pytest
import verl  # loads the plugin  # noqa: F401

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError

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


def test_aepo_over_kept_tokens_without_a_token_mean_would_have_no_effect(verl_config):
    loss = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"
    driver_check.check(verl_config(*LONG, loss))
    kept = "algorithm.verl_ext.masks.aepo.denominator=kept"
    with pytest.raises(SettingsError, match="loss_agg_mode=token-mean"):
        driver_check.check(verl_config(*LONG, loss, kept))


def test_zero_advantage_without_a_token_mean_would_have_no_effect(verl_config):
    config = verl_config(
        "+paper=nsr", "+scale=cpu", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum"
    )
    with pytest.raises(SettingsError, match=r"loss_agg_mode=token-mean"):
        driver_check.check(config)


def test_a_stage_of_the_long_context_recipe_is_refused_on_a_cpu(verl_config):
    with pytest.raises(SettingsError, match="174080 tokens do not fit"):
        driver_check.check(verl_config(*LONG, "task=qwenlong_l15_stage3"))


@pytest.mark.parametrize(
    ("paper", "steps", "told"),
    [
        ("std_filter", 10, "masks.std_filter withholds nothing in this run: it watches for 10 "),
        ("std_filter", 11, None),
        ("aepo", 20, "masks.aepo withholds nothing in this run: it watches for 20 steps first"),
        ("aepo", 21, None),
        ("aepo", "null", None),
    ],
)
def test_a_mask_that_only_watches_in_so_short_a_run_says_so(
    verl_config, capsys, paper, steps, told
):
    length = f"trainer.total_training_steps={steps}"
    grpo = "algorithm.adv_estimator=grpo"
    driver_check.check(verl_config(f"+paper={paper}", "+scale=cpu", grpo, length))
    said = [line for line in capsys.readouterr().out.splitlines() if "withholds" in line]
    assert len(said) == (told is not None)
    assert told is None or (told in said[0] and length in said[0])


def test_a_step_of_several_updates_is_as_many_batches_for_a_mask_to_watch(verl_config, capsys):
    apart = "trainer.v1.trainer_mode=verl_ext.separate_async"
    chance = "algorithm.verl_ext.deterministic=false"
    driver_check.check(verl_config(*LONG, apart, chance, "trainer.total_training_steps=11"))
    assert "withholds" not in capsys.readouterr().out
