"""Every overlay, on every scale, with both of verl's primary configurations."""

import itertools
import subprocess
import sys

import pytest
import verl  # registers the resolver of the toy paths  # noqa: F401
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

from verl_ext import overlays
from verl_ext.catalog import MASKS, REWARDS, SAMPLERS
from verl_ext.papers import PAPERS

PRIMARIES = {"ppo_trainer": [], "ppo_megatron_trainer": [], "megatron": ["model_engine=megatron"]}
AXES = tuple(
    enumerate(names) for names in (overlays.names("paper"), overlays.names("scale"), PRIMARIES)
)
# Every pair of a paper, a scale and an engine is in the third that `make test` has.
TABLE = [
    pytest.param(*names, marks=[pytest.mark.wide] if sum(places) % len(PRIMARIES) else [])
    for places, names in (zip(*cell, strict=True) for cell in itertools.product(*AXES))
]


@pytest.fixture
def composed(verl_config, model_folder, scale_models):
    """verl's configuration of a paper at a scale on an engine, with the scale's own model."""

    def compose(paper, scale, engine, *overrides):
        primary = engine if engine.startswith("ppo") else "ppo_trainer"
        folder = model_folder[scale_models[scale][0]]
        return verl_config(
            *PRIMARIES[engine],
            f"+paper={paper}",
            f"+scale={scale}",
            f"actor_rollout_ref.model.path={folder}",
            f"critic.model.path={folder}",
            *overrides,
            primary=primary,
        )

    return compose


def as_the_worker_reads_it(ref):
    """The reference's section with the renamings of verl's ActorRolloutRefWorker.init_model."""
    ref = OmegaConf.create(OmegaConf.to_container(ref, resolve=True))
    ref.ppo_micro_batch_size = ref.pop("log_prob_micro_batch_size")
    ref.ppo_micro_batch_size_per_gpu = ref.pop("log_prob_micro_batch_size_per_gpu")
    ref.use_dynamic_bsz = ref.pop("log_prob_use_dynamic_bsz")
    ref.ppo_max_token_len_per_gpu = ref.pop("log_prob_max_token_len_per_gpu")
    return ref


def data_parallel_size(engine, n_gpus):
    if engine.strategy == "megatron":
        model_parallel = engine.tensor_model_parallel_size * engine.pipeline_model_parallel_size
        cut = model_parallel * engine.context_parallel_size
    else:
        cut = engine.ulysses_sequence_parallel_size
    assert n_gpus % cut == 0
    return n_gpus // cut


@pytest.mark.parametrize(("paper", "scale", "engine"), TABLE)
def test_every_paper_runs_through_verls_typed_configurations(composed, paper, scale, engine):
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.config import TrainingWorkerConfig

    config = composed(paper, scale, engine)
    OmegaConf.to_container(config, resolve=True)
    assert not {"paper", "scale", "task"} & set(config)
    n_gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    batch, model = config.data.train_batch_size, config.actor_rollout_ref.model

    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    ref = omega_conf_to_dataclass(as_the_worker_reads_it(config.actor_rollout_ref.ref))
    critic = omega_conf_to_dataclass(config.critic)
    actor.validate(n_gpus, batch, model)
    ref.validate(n_gpus, batch, model)
    critic.validate(n_gpus, batch)
    for part in (actor, ref, critic):
        expected = "megatron" if "megatron" in engine else "fsdp2"
        assert part.strategy == part.engine.strategy == expected
        # verl asserts this in train_mini_batch, minutes into a run
        rows = part.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
        assert rows % data_parallel_size(part.engine, n_gpus) == 0
    assert ref.engine.forward_only
    assert not actor.engine.forward_only
    TrainingWorkerConfig(
        model_type="language_model",
        model_config=omega_conf_to_dataclass(model),
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )

    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert n_gpus % rollout.tensor_model_parallel_size == 0
    assert actor.use_dynamic_bsz == rollout.log_prob_use_dynamic_bsz  # verl's worker asserts it
    validate_config.__wrapped__(config, use_reference_policy=True, use_critic=True)


@pytest.mark.parametrize("engine", PRIMARIES)
def test_verls_typed_configurations_refuse_a_key_they_do_not_know(composed, engine):
    from verl.utils.config import omega_conf_to_dataclass

    section = "megatron" if "megatron" in engine else "fsdp_config"
    config = composed("w_reinforce", "gpu8", engine)
    OmegaConf.set_struct(config, False)
    config.actor_rollout_ref.actor[section].param_offlod = True
    with pytest.raises(Exception, match="param_offlod"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)


@pytest.mark.parametrize("task", overlays.names("task"))
def test_every_task_replaces_the_scales_task(verl_config, task):
    config = verl_config("+paper=w_reinforce", "+scale=cpu", f"task={task}")
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("paper", overlays.names("paper"))
def test_papers_name_plugins_that_exist(verl_config, paper):
    assert paper in PAPERS
    config = verl_config(f"+paper={paper}")
    assert config.algorithm.adv_estimator in ADV_ESTIMATOR_REGISTRY  # ours and verl's own
    assert set(config.algorithm.verl_ext.get("group_reward", {})) <= set(REWARDS)
    assert set(config.algorithm.verl_ext.get("masks", {})) <= set(MASKS)
    assert set(config.algorithm.verl_ext.get("sampler", {})) <= set(SAMPLERS)


def test_the_scales_sizes_beat_the_papers(verl_config):
    config = verl_config("+paper=w_reinforce", "+scale=cpu")
    assert config.data.train_batch_size < 1024
    assert config.actor_rollout_ref.rollout.val_kwargs.n < 256


def test_a_paper_may_size_the_cpu_scale_and_a_user_has_the_last_word(verl_config):
    def sizes(*overrides):
        config = verl_config(*overrides)
        actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
        return config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n, actor.optim.lr

    assert sizes("+paper=w_reinforce", "+scale=cpu") == (16, 8, 8, 1e-4)
    assert sizes("+paper=opd", "+scale=cpu") == (32, 16, 4, 6e-4)
    assert sizes("+paper=[opd,aepo]", "+scale=cpu", "data.train_batch_size=4")[:3] == (4, 16, 4)
    assert sizes("+paper=opd", "+scale=gpu8")[0] == 1024


def test_psr_and_nsr_are_corners_of_w_reinforce(verl_config):
    weights = {
        paper: tuple(verl_config(f"+paper={paper}").algorithm.verl_ext.advantage.values())
        for paper in ("w_reinforce", "psr", "nsr")
    }
    assert weights == {"w_reinforce": (0.1, 1.0), "psr": (1.0, 0.0), "nsr": (0.0, 1.0)}


def test_the_std_filter_is_a_part_on_top_of_any_estimator_and_one_key_changes_its_mode(verl_config):
    from verl_ext.adapters.masks import MaskChain

    def masks(*overrides):
        config = verl_config("+scale=cpu", "+paper=[task_norm,std_filter]", *overrides)
        assert config.algorithm.adv_estimator == "verl_ext.task_norm"
        return MaskChain(config.algorithm.verl_ext.masks)

    assert masks().resampler.max_gen_batches == 10
    assert list(masks("algorithm.verl_ext.masks.std_filter.mode=mask").chain) == ["std_filter"]


def test_rlpr_has_a_preset_for_each_family_and_the_toys_tags_on_the_toy_alone(verl_config):
    from verl_ext.adapters.reference_probability import check
    from verl_ext.adapters.reference_probability.settings import reference_probability

    def preset(*overrides):
        config = verl_config(*overrides)
        check.prepare(config)
        OmegaConf.resolve(config)
        rule = reference_probability(config).rule()
        return config.algorithm.verl_ext.masks.std_filter.beta, rule.tags.all

    tags = ("<think>", "</think>", "<answer>", "</answer>")
    assert preset("+paper=rlpr", "+scale=gpu8") == (0.5, tags)
    assert preset("+paper=rlpr_llama", "+scale=gpu8") == (0.9, tags[2:])
    assert preset("+paper=rlpr_gemma", "+scale=gpu8") == (1.0, tags[2:])
    assert preset("+paper=rlpr", "+scale=cpu")[1] == ("[", "]", "{", "}")


def test_overlays_are_found_from_an_empty_directory(tmp_path):
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+paper=psr", "+scale=cpu"]
    out = subprocess.run(
        [*command, "--cfg", "job", "--package", "algorithm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "adv_estimator: verl_ext.w_reinforce" in out.stdout, out.stderr
