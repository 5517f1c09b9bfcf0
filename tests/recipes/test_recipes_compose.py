"""Every overlay, on every scale, with both of verl's primary configurations."""

import subprocess
import sys

import pytest
import verl  # registers the resolver of the toy paths  # noqa: F401
from omegaconf import OmegaConf

from verl_ext import overlays
from verl_ext.catalog import ADVANTAGES, MASKS, PAPERS

PRIMARIES = {"ppo_trainer": [], "ppo_megatron_trainer": [], "megatron": ["model_engine=megatron"]}


@pytest.mark.parametrize("engine", PRIMARIES)
@pytest.mark.parametrize("scale", overlays.names("scale"))
@pytest.mark.parametrize("paper", overlays.names("paper"))
def test_every_paper_composes_at_every_scale(verl_config, paper, scale, engine):
    primary = engine if engine.startswith("ppo") else "ppo_trainer"
    overrides = [*PRIMARIES[engine], f"+paper={paper}", f"+scale={scale}"]
    config = verl_config(*overrides, primary=primary)
    OmegaConf.to_container(config, resolve=True)
    assert not {"paper", "scale", "task"} & set(config)
    assert config.actor_rollout_ref.actor.strategy == (
        "megatron" if "megatron" in engine else ("fsdp2" if scale == "cpu" else "fsdp")
    )


@pytest.mark.parametrize("scale", overlays.names("scale"))
@pytest.mark.parametrize("engine", PRIMARIES)
def test_engine_settings_convert_to_verls_typed_configurations(verl_config, scale, engine):
    from verl.utils.config import omega_conf_to_dataclass

    primary = engine if engine.startswith("ppo") else "ppo_trainer"
    overrides = [*PRIMARIES[engine], "+paper=w_reinforce", f"+scale={scale}"]
    config = verl_config(*overrides, primary=primary)
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    actor = config.actor_rollout_ref.actor
    for key in ("ppo_micro_batch_size_per_gpu",):
        assert actor[key] is not None or actor.use_dynamic_bsz
    if "megatron" not in engine:  # conversion of Megatron's needs its own parallel sizes: see docs
        assert omega_conf_to_dataclass(actor).strategy == actor.strategy


@pytest.mark.parametrize("task", overlays.names("task"))
def test_every_task_replaces_the_scales_task(verl_config, task):
    config = verl_config("+paper=w_reinforce", "+scale=cpu", f"task={task}")
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("paper", overlays.names("paper"))
def test_papers_name_plugins_that_exist(verl_config, paper):
    assert paper in PAPERS
    config = verl_config(f"+paper={paper}")
    assert config.algorithm.adv_estimator in ADVANTAGES
    assert set(config.algorithm.verl_ext.get("masks", {})) <= set(MASKS)


def test_the_scales_sizes_beat_the_papers(verl_config):
    config = verl_config("+paper=w_reinforce", "+scale=cpu")
    assert config.data.train_batch_size < 1024
    assert config.actor_rollout_ref.rollout.val_kwargs.n < 256


def test_psr_and_nsr_are_corners_of_w_reinforce(verl_config):
    weights = {
        paper: tuple(verl_config(f"+paper={paper}").algorithm.verl_ext.advantage.values())
        for paper in ("w_reinforce", "psr", "nsr")
    }
    assert weights == {"w_reinforce": (0.1, 1.0), "psr": (1.0, 0.0), "nsr": (0.0, 1.0)}


def test_overlays_are_found_from_an_empty_directory(tmp_path):
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+paper=psr", "+scale=cpu"]
    out = subprocess.run(
        [*command, "--cfg", "job", "--package", "algorithm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "adv_estimator: verl_ext.w_reinforce" in out.stdout, out.stderr
