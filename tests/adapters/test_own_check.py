"""What is refused of a policy as its own teacher before Ray starts, and in which words."""

import json

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher import own_check, own_lengths, settings, tokenizers

RUN = ("+paper=sdpo", "+scale=cpu")
TEACHER, ROLES = "algorithm.verl_ext.teacher", "actor_rollout_ref"
MEGATRON = ("model_engine=megatron",)


@pytest.mark.parametrize(
    ("setting", "usual"),
    [("discount=0.9", "0.0"), ("center=true", "false"), ("log_probs=rollout", "old")],
)
def test_what_shapes_a_term_of_weight_0_is_refused(verl_config, setting, usual):
    key = "algorithm.verl_ext.advantage"
    name = setting.split("=")[0]
    with pytest.raises(SettingsError, match=rf"no effect with {key}.coef=0.*{name}={usual}$"):
        driver_check.check(verl_config(*RUN, f"{key}.{setting}"))
    driver_check.check(verl_config(*RUN, f"{key}.{setting}", f"{key}.coef=1.0"))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (f"{TEACHER}.source=self",),
        (f"{TEACHER}.source=trust_region",),
        (f"{TEACHER}.source=trust_region", *MEGATRON),
        MEGATRON,
        (f"{ROLES}.actor.use_kl_loss=true", f"{ROLES}.actor.kl_loss_type=low_var_kl"),
        ("algorithm.verl_ext.advantage.task_estimator=grpo",),
        (f"{ROLES}.rollout.n=1", f"{TEACHER}.hints.include_feedback=true"),
        (f"+{TEACHER}.texts={{marker: ' ... '}}",),
    ],
)
def test_combinations_that_make_sense_pass(verl_config, overrides):
    driver_check.check(verl_config(*RUN, *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((f"~{TEACHER}",), r"'verl_ext.sdpo' needs a teacher. Add: \+.*source: ema"),
        ((f"{TEACHER}.source=emma",), "did you mean 'ema'"),
        ((f"{TEACHER}.source=ref", f"+{TEACHER}.path=/m"), r"taught by the policy itself.*opd"),
        ((f"{TEACHER}.source=server",), "taught by the policy itself"),
        (("algorithm.adv_estimator=verl_ext.opd",), r"adv_estimator=verl_ext\.sdpo"),
        (
            ("algorithm.adv_estimator=grpo", "~algorithm.verl_ext.advantage"),
            r"task_estimator=grpo",
        ),
        ((f"+{TEACHER}.path=/m",), r"path is for source=ref.*Remove it: '~"),
        ((f"+{TEACHER}.timeout_s=3",), "timeout_s is for source=server"),
        ((f"{TEACHER}.source=self", f"{TEACHER}.rate=0.1"), "rate is for source=ema or trust_reg"),
        ((f"{TEACHER}.rate=1.0",), "rate must be above 0 and below 1"),
        ((f"+{TEACHER}.hints.include_feedbak=true",), "did you mean 'include_feedback'"),
        ((f"{TEACHER}.hints.include_solution=false",), "both off"),
        ((f"+{TEACHER}.texts.solution=see",), r"needs \{solution\} once"),
        ((f"{ROLES}.rollout.n=1",), r"no sibling.*rollout\.n=8"),
        ((f"{TEACHER}.max_prompt_length=null",), r"Add: .*max_prompt_length=80 "),
        ((f"{TEACHER}.max_prompt_length=1.5",), "whole number"),
        ((f"{TEACHER}.max_prompt_length=64",), "no room for hints"),
        ((f"{TEACHER}.max_prompt_length=9201",), r"9217 tokens do not fit.*max_prompt_length=9200"),
        (("algorithm.verl_ext.divergence.support=teacher",), "read different prompts"),
        (
            (
                "algorithm.verl_ext.divergence.support=full",
                "algorithm.verl_ext.divergence.top_k=null",
            ),
            "read different prompts",
        ),
        (("algorithm.verl_ext.divergence.importance_clip=0.5",), "must be at least 1"),
        (("algorithm.verl_ext.divergence.normalisation=rows",), "micro_batch_mean"),
        (("algorithm.verl_ext.divergence=null",), "teaches nothing"),
        (("distillation.enabled=true",), r"distillation\.enabled=false"),
        ((f"{ROLES}.model.lora_rank=8",), r"Add: .*source=self"),
        ((f"{ROLES}.actor.strategy=fsdp",), r"actor\.strategy=fsdp2"),
        (
            (*MEGATRON, f"+{ROLES}.actor.megatron.override_ddp_config.overlap_param_gather=true"),
            "gathers the live weights",
        ),
        (
            (f"{TEACHER}.source=trust_region", f"{ROLES}.model.use_fused_kernels=true"),
            "needs the logits",
        ),
        (
            (
                *MEGATRON,
                f"{TEACHER}.source=trust_region",
                "trainer.n_gpus_per_node=2",
                f"{ROLES}.actor.megatron.pipeline_model_parallel_size=2",
                f"+{ROLES}.actor.megatron.override_transformer_config."
                "num_layers_in_first_pipeline_stage=2",
            ),
            "last pipeline stage",
        ),
        (
            (
                f"{TEACHER}.source=trust_region",
                "trainer.v1.trainer_mode=verl_ext.separate_async",
                "algorithm.verl_ext.deterministic=false",
                f"{ROLES}.hybrid_engine=false",
            ),
            "in one process",
        ),
        (("trainer.v1.trainer_mode=sync",), r"verl_ext\.sync"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_line_to_type(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*RUN, *overrides))


@pytest.mark.parametrize("key", ["hints={include_feedback: false}", "max_prompt_length=200"])
def test_another_models_teacher_takes_no_hints(verl_config, key):
    name = key.split("=")[0]
    with pytest.raises(SettingsError, match=f"{name} is for source=self or ema or trust_region"):
        driver_check.check(verl_config("+paper=opd", "+scale=cpu", f"+{TEACHER}.{key}"))


def test_a_teachers_prompt_is_a_prompt_a_response_and_the_words_around_them(verl_config):
    teacher = settings.plan(verl_config(*RUN)).teacher
    assert teacher.max_prompt_length == 64 + 16 + 256
    authors = settings.plan(verl_config("+paper=sdpo")).teacher
    assert authors.max_prompt_length == 10240 + 256


@pytest.mark.parametrize(
    ("model", "there"),
    [
        ({}, None),
        ({"max_position_embeddings": 300}, 300),
        ({"text_config": {"max_position_embeddings": 300}}, 300),
        (
            {
                "max_position_embeddings": 300,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 300},
            },
            1200,
        ),
    ],
)
def test_a_models_positions(verl_config, tmp_path, model, there):
    assert own_lengths.positions(model) == there
    (tmp_path / "config.json").write_text(json.dumps(model))
    config = verl_config(*RUN, f"{ROLES}.model.path={tmp_path}")
    teacher = settings.plan(config).teacher  # 336 tokens of prompt, 16 of response
    if there == 300:
        with pytest.raises(SettingsError, match=r"352 tokens.*300 positions.*length=284"):
            own_lengths.check_model(config, teacher)
    else:
        own_lengths.check_model(config, teacher)


def test_a_model_that_is_not_on_this_disk_is_not_looked_at(verl_config):
    config = verl_config(*RUN, f"{ROLES}.model.path=Qwen/Qwen3-8B")
    own_lengths.check_model(config, settings.plan(config).teacher)


def test_nobody_has_another_tokenizer(verl_config):
    config = verl_config(*RUN, "algorithm.verl_ext.divergence=null")
    tokenizers.check(config)
    assert not list(tokenizers.teachers(config))


def test_hints_and_texts_are_the_dataclasses_of_the_pure_functions(verl_config):
    rich = settings.plan(verl_config("+paper=sdpo_rich_feedback", "+scale=cpu")).teacher
    assert own_check.rules(rich).include_feedback
    assert not own_check.rules(settings.plan(verl_config(*RUN)).teacher).include_feedback
    assert rich.rate == 0.01
    assert own_check.texts(rich).marker == " ... "


def test_the_toys_reward_says_what_is_wrong(verl_config):
    def path(*overrides):
        return verl_config(*overrides).reward.custom_reward_function.path

    assert path(*RUN) == "pkg://verl_ext.toy.feedback"
    assert path("+paper=opd", "+scale=cpu") == "pkg://verl_ext.toy.reward"
    unknown = verl_config(*RUN, "algorithm.verl_ext.toy=sdpoo")
    with pytest.raises(SettingsError, match="did you mean 'sdpo'"):
        driver_check.check(unknown)


def test_a_section_is_read_whole():
    config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "verl_ext.sdpo",
                "verl_ext": {"teacher": {"source": "self", "hints": {"success_threshold": 1.0}}},
            }
        }
    )
    teacher = settings.plan(config).teacher
    assert (teacher.is_own, teacher.needs_reference) == (True, False)
    assert own_check.rules(teacher).success_threshold == 1.0
