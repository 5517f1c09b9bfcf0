"""What is refused of a teacher and of a divergence before Ray starts, and in which words."""

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher import check, settings, tokenizers

RUN = ("+paper=opd", "+scale=cpu")
DIVERGENCE = "+algorithm.verl_ext.divergence={top_k: 8}"
SERVER = (
    "algorithm.verl_ext.teacher.source=server",
    "distillation.enabled=true",
    "distillation.n_gpus_per_node=1",
    "distillation.nnodes=1",
    "distillation.teacher_models.teacher_model.model_path=/models/t",
)
MEGATRON = "actor_rollout_ref.actor.megatron"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("algorithm.verl_ext.advantage.task_estimator=grpo",),
        (
            "algorithm.verl_ext.advantage.task_estimator=verl_ext.task_norm",
            "+algorithm.verl_ext.advantage.task_arguments={eps: 1e-3}",
        ),
        (DIVERGENCE,),
        (DIVERGENCE, "algorithm.verl_ext.advantage.coef=0.0"),
        (DIVERGENCE, "algorithm.adv_estimator=grpo", "~algorithm.verl_ext.advantage"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspo",),
        ("+algorithm.verl_ext.divergence={}",),
        SERVER,
        (
            *SERVER,
            "+algorithm.verl_ext.divergence={top_k: 8, support: teacher}",
            "algorithm.verl_ext.advantage.coef=0.0",
        ),
    ],
)
def test_combinations_that_make_sense_pass(verl_config, overrides):
    driver_check.check(verl_config(*RUN, *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("~algorithm.verl_ext.teacher",), "'verl_ext.opd' needs a teacher. Add: "),
        (
            (DIVERGENCE, "~algorithm.verl_ext.teacher", "~algorithm.verl_ext.advantage",
             "algorithm.adv_estimator=grpo"),
            "divergence needs a teacher",
        ),
        (
            ("algorithm.adv_estimator=grpo", "~algorithm.verl_ext.advantage"),
            "nothing learns from it",
        ),
        (("algorithm.verl_ext.teacher.path=null",), r"Add: algorithm\.verl_ext\.teacher\.path="),
        (("algorithm.verl_ext.teacher.source=reff",), "did you mean 'ref'"),
        (("+algorithm.verl_ext.teacher.pth=x",), "did you mean 'path'"),
        (("algorithm.verl_ext.teacher.log_prob_floor=1.0",), "must be a negative number"),
        (("+algorithm.verl_ext.teacher.on_teacher_failure=drop",), "is for source=server"),
        (("+algorithm.verl_ext.teacher.timeout_s=3",), "is for source=server"),
        (("algorithm.verl_ext.advantage.coef=0.0",), "teaches nothing"),
        (("algorithm.verl_ext.advantage.discount=1.5",), "discount"),
        (
            ("algorithm.verl_ext.advantage.task_weight=0.3",),
            r"advantage: task_weight=0\.3 has no effect without a task_estimator: make it 1\.0",
        ),
        (("algorithm.verl_ext.advantage.log_probs=new",), "log_probs must be one of old, rollout"),
        (("algorithm.verl_ext.advantage.task_estimator=grpoo",), "did you mean 'grpo'"),
        (("algorithm.verl_ext.advantage.task_estimator=verl_ext.opd",), "unknown 'verl_ext.opd'"),
        (("algorithm.verl_ext.advantage.task_estimator=gae",), "critic.enable=true"),
        (("+algorithm.verl_ext.advantage.task_arguments={eps: 1}",), "without a task_estimator"),
        (
            ("algorithm.verl_ext.advantage.task_estimator=grpo",
             "+algorithm.verl_ext.advantage.task_arguments={eps: 1}"),
            "'grpo' takes none of it",
        ),
        (
            ("algorithm.verl_ext.advantage.task_estimator=verl_ext.task_norm",
             "+algorithm.verl_ext.advantage.task_arguments={epps: 1}"),
            "did you mean 'eps'",
        ),
        (("actor_rollout_ref.actor.use_kl_loss=true",), "holds the teacher"),
        (("algorithm.use_kl_in_reward=true",), "holds the teacher"),
        (("actor_rollout_ref.model.lora_rank=8",), "LoRA"),
        (("distillation.enabled=true",), "leaves idle"),
        (("trainer.v1.trainer_mode=sync",), r"trainer_mode=verl_ext\.sync"),
        (("algorithm.verl_ext.teacher.source=server",), "Add: distillation.enabled=true"),
        ((*SERVER, "algorithm.verl_ext.teacher.path=/models/t"), "path is for source=ref"),
        ((*SERVER, "actor_rollout_ref.rollout.temperature=0.7"), "at temperature 1"),
        ((*SERVER, DIVERGENCE), "divergence.support=teacher"),
        (
            (*SERVER, "+algorithm.verl_ext.divergence={top_k: 8, support: teacher}"),
            "a server is asked once",
        ),
        (
            (*SERVER, "+distillation.teacher_models.other={key: x, model_path: /models/o}"),
            "verl drops the one of this name",
        ),
        (
            (*SERVER, "actor_rollout_ref.actor.use_kl_loss=true",
             "actor_rollout_ref.actor.kl_loss_type=k1"),
            "expected gradient is zero",
        ),
        (("+algorithm.verl_ext.divergence={alpha: k1}",), "the expected gradient of k1 is zero"),
        (("+algorithm.verl_ext.divergence={alpha: revers_kl}",), "did you mean 'reverse_kl'"),
        (("+algorithm.verl_ext.divergence={alpha: 1.5}",), "alpha"),
        (("+algorithm.verl_ext.divergence={top_k: null}",), "top_k"),
        (
            ("+algorithm.verl_ext.divergence={support: full, top_k: null, tail: false}",),
            "tail=false has no effect",
        ),
        (("+algorithm.verl_ext.divergence={suport: full}",), "did you mean 'support'"),
        (("+algorithm.verl_ext.divergence={coef: 0}",), "coef must be above 0"),
        ((DIVERGENCE, "actor_rollout_ref.model.use_fused_kernels=true"), "use_fused_kernels=false"),
        (
            (DIVERGENCE, "model_engine=megatron", f"{MEGATRON}.pipeline_model_parallel_size=2"),
            "last pipeline stage",
        ),
        (
            (DIVERGENCE, "trainer.v1.trainer_mode=verl_ext.separate_async",
             "algorithm.verl_ext.deterministic=false", "actor_rollout_ref.hybrid_engine=false"),
            "in one process",
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_key_and_the_way_out(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config(*RUN, *overrides))


def test_another_task_asks_for_a_teacher_of_its_own(verl_config):
    config = verl_config(*RUN, "task=gsm8k", "actor_rollout_ref.model.path=/m")
    with pytest.raises(SettingsError, match="whose weights"):
        driver_check.check(config)


@pytest.mark.parametrize("alpha", [0.001, 0.999])
def test_an_alpha_at_which_the_divergence_vanishes_is_warned_of(verl_config, capsys, alpha):
    driver_check.check(
        verl_config(*RUN, f"+algorithm.verl_ext.divergence={{alpha: {alpha}, top_k: 8}}")
    )
    assert "vanishes towards 0 and 1" in capsys.readouterr().out


def test_presets_are_the_numbers_of_the_kernel():
    found = {name: settings.Divergence(alpha=name).arguments["alpha"] for name in settings.ALPHAS}
    assert found == {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), ("k1", True)),
        (
            ("+algorithm.verl_ext.divergence={top_k: 8, support: teacher}",
             "algorithm.verl_ext.advantage.coef=0.0"),
            ("forward_kl_topk", False),
        ),
    ],
)  # fmt: skip
def test_teacher_servers_are_asked_for_what_is_read_of_them(verl_config, more, expected):
    config = verl_config(*RUN, *SERVER, *more)
    check.prepare(config)
    loss = config.distillation.distillation_loss
    assert (loss.loss_mode, loss.use_policy_gradient) == expected
    if more:
        assert loss.topk == 8


def test_the_toys_teacher_is_written_down_before_verl_resolves_the_configuration(verl_config):
    """In the order of the keys the toy's own paths are resolved first, and it looks like no toy."""
    config = verl_config(*RUN)
    check.prepare(config)
    OmegaConf.resolve(config)
    assert "/opd-" in config.algorithm.verl_ext.teacher.path
    assert config.algorithm.verl_ext.teacher.path != config.actor_rollout_ref.model.path


def save_tokenizer(folder, letters):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate(letters)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=letters[0]))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=letters[0])
    made.pad_token = letters[0]
    made.save_pretrained(folder)


def student_and_teacher(folder, teachers, **ours):
    save_tokenizer(folder / "student", "abc")
    save_tokenizer(folder / "teacher", teachers)
    section = {"teacher": {"source": "ref", "path": str(folder / "teacher")}, **ours}
    return OmegaConf.create(
        {
            "algorithm": {"adv_estimator": "verl_ext.opd", "verl_ext": section},
            "actor_rollout_ref": {"model": {"path": str(folder / "student")}},
            "data": {},
        }
    )


def test_a_support_larger_than_the_vocabulary_is_refused_with_a_size_that_fits(tmp_path):
    config = student_and_teacher(tmp_path, "abc", divergence={"top_k": 4})
    with pytest.raises(SettingsError, match=r"top_k=4 of a vocabulary of 3\. Add: .*top_k=1"):
        tokenizers.check(config)


@pytest.mark.parametrize("source", ["self", "ema", "trust_region"])
def test_a_policys_own_teacher_is_asked_for_no_more_tokens_than_there_are(tmp_path, source):
    config = student_and_teacher(tmp_path, "abc", divergence={"top_k": 4})
    config.algorithm.adv_estimator = "verl_ext.sdpo"
    config.algorithm.verl_ext.teacher = {"source": source}
    with pytest.raises(SettingsError, match=r"top_k=4 of a vocabulary of 3\. Add: .*top_k=1$"):
        tokenizers.check(config)
    config.algorithm.verl_ext.divergence.top_k = 3
    tokenizers.check(config)


@pytest.mark.parametrize(("teachers", "alike"), [("abc", True), ("acb", False), ("abcd", False)])
def test_a_teacher_with_another_vocabulary_is_refused(tmp_path, teachers, alike):
    config = student_and_teacher(tmp_path, teachers)
    if alike:
        tokenizers.check(config)
        return
    with pytest.raises(
        SettingsError, match=r"another vocabulary .*the student's tokenizer"
    ) as said:
        tokenizers.check(config)
    assert str(tmp_path / "student") in str(said.value)
