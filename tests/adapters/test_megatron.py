"""What the Megatron engine cannot do is refused in the driver, in words."""

import json

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import megatron, probe
from verl_ext.adapters.errors import SettingsError

ENGINE = "actor_rollout_ref.actor.megatron"


@pytest.fixture
def configured(verl_config):
    def composed(*overrides):
        return verl_config("model_engine=megatron", "+paper=w_reinforce", "+scale=cpu", *overrides)

    return composed


def check(config, on_cpu=True):
    megatron.check(config, on_cpu=on_cpu, workers_share_packages=True)


def test_what_the_cpu_scale_asks_for_is_fine(configured):
    check(configured())
    check(configured(f"{ENGINE}.tensor_model_parallel_size=2", "trainer.n_gpus_per_node=2"))


def test_betas_that_megatron_would_not_see_are_refused_with_where_it_looks(configured):
    optim = "actor_rollout_ref.actor.optim"
    config = configured(f"{optim}.betas=[0.9,0.95]")
    with pytest.raises(SettingsError, match=r"no effect on Megatron.*adam_beta2: 0\.95"):
        check(config)
    seen = f"+{optim}.override_optimizer_config={{adam_beta1: 0.9, adam_beta2: 0.95}}"
    check(configured(f"{optim}.betas=[0.9,0.95]", seen))


def test_megatrons_own_betas_are_those_we_think():
    from megatron.core.optimizer import OptimizerConfig

    assert (OptimizerConfig().adam_beta1, OptimizerConfig().adam_beta2) == megatron.MEGATRONS_BETAS


def test_fsdp_is_not_looked_at(verl_config):
    check(verl_config("+paper=w_reinforce", "+scale=cpu"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{ENGINE}.param_offload=true", "param_offload=True does not work.*no effect"),
        (f"{ENGINE}.optimizer_offload=true", "optimizer_offload=True does not work"),
        (f"{ENGINE}.use_distributed_optimizer=false", "weights to the rollout.*Fine is: True"),
        (f"{ENGINE}.use_megatron_fsdp=true", "Megatron-FSDP is built on CUDA streams"),
        (f"{ENGINE}.dynamic_context_parallel=true", "use context_parallel_size"),
        (f"{ENGINE}.router_replay.mode=R3", "Fine is: disabled, R2"),
        (f"{ENGINE}.qat.enable=true", "quantised training"),
        (f"+{ENGINE}.override_transformer_config.fp8=hybrid", "Transformer Engine"),
        (f"{ENGINE}.dtype=float16", "Fine is: float32, bfloat16"),
        ("actor_rollout_ref.model.use_fused_kernels=true", "use_fused_kernels=true does not work"),
        ("actor_rollout_ref.model.lora_rank=8", "LoRA on Megatron needs Megatron-Bridge"),
        ("actor_rollout_ref.model.lora.rank=8", "LoRA on Megatron needs Megatron-Bridge"),
    ],
)
def test_a_setting_that_cpus_cannot_do_is_refused_with_the_reason(configured, override, words):
    with pytest.raises(SettingsError, match=words):
        check(configured(override))
    check(configured(override), on_cpu=False)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"{ENGINE}.tensor_model_parallel_size=2"], "tensor 2 x pipeline 1 x context 1 = 2 does"),
        ([f"{ENGINE}.pipeline_model_parallel_size=2"], "does not divide 1 worker"),
        (
            [f"{ENGINE}.context_parallel_size=2", "trainer.n_gpus_per_node=3"],
            "does not divide 3 worker.*trainer.n_gpus_per_node=2",
        ),
        (
            [
                f"{ENGINE}.expert_model_parallel_size=2",
                f"{ENGINE}.tensor_model_parallel_size=2",
                "trainer.n_gpus_per_node=2",
            ],
            "expert 2 x expert tensor 2 x pipeline 1 = 4",
        ),
    ],
)
def test_sizes_that_do_not_multiply_to_the_workers_are_refused(configured, overrides, words):
    for on_cpu in (True, False):
        with pytest.raises(SettingsError, match=words):
            check(configured(*overrides), on_cpu=on_cpu)


def test_reference_and_critic_are_checked_when_they_are_built(configured):
    wrong = "actor_rollout_ref.ref.megatron.param_offload=true"
    check(configured(wrong))
    with pytest.raises(SettingsError, match=r"^actor_rollout_ref\.ref\.megatron\.param_offload"):
        check(configured(wrong, "actor_rollout_ref.actor.use_kl_loss=true"))
    with pytest.raises(SettingsError, match=r"^critic\.megatron\.param_offload"):
        check(configured("critic.megatron.param_offload=true", "critic.enable=true"))


@pytest.mark.parametrize(
    ("absent", "overrides", "words"),
    [
        ({"megatron"}, [], r"needs megatron.core and mbridge|needs megatron.core: pip install"),
        ({"mbridge"}, [], r"needs mbridge: pip install 'verl-ext\[megatron\]'"),
        (
            {"megatron.bridge"},
            [f"{ENGINE}.vanilla_mbridge=false"],
            r"needs megatron.bridge: pip install 'verl\[megatron\]', or add: .*mbridge=true",
        ),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    configured, monkeypatch, absent, overrides, words
):
    find = megatron.importlib.util.find_spec
    monkeypatch.setattr(
        megatron.importlib.util,
        "find_spec",
        lambda name: None if name in absent else find(name),
    )
    with pytest.raises(SettingsError, match=words):
        check(configured(*overrides))
    # A driver that submits to a cluster need not have what the workers have.
    config = configured(*overrides)
    megatron.check(config, on_cpu=True, workers_share_packages=False)


def test_an_unchecked_version_is_refused_on_the_cpu_alone(configured, monkeypatch):
    monkeypatch.setattr(megatron, "version", lambda package: "0.19.2")
    with pytest.raises(SettingsError, match=r"megatron-core>=0\.16,<0\.17, and 0\.19\.2"):
        check(configured())
    check(configured(), on_cpu=False)


def test_the_extra_installs_what_was_checked():
    from pathlib import Path

    import tomllib

    from verl_ext.platforms.megatron_patches import CHECKED

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["megatron"]
    assert extra == [f"{package}{versions}" for package, versions in CHECKED.items()]


def test_the_model_must_split(configured, tmp_path):
    model = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(model))
    config = configured("trainer.n_gpus_per_node=4")
    OmegaConf.update(config, "actor_rollout_ref.model.path", str(tmp_path))
    megatron.check_model(config)
    OmegaConf.update(config, f"{ENGINE}.tensor_model_parallel_size", 3)
    with pytest.raises(SettingsError, match="4 heads and 2 key-value heads"):
        megatron.check_model(config)
    OmegaConf.update(config, f"{ENGINE}.tensor_model_parallel_size", 4)
    megatron.check_model(config)  # two ranks to a key-value head
    OmegaConf.update(config, f"{ENGINE}.tensor_model_parallel_size", 2)
    OmegaConf.update(config, f"{ENGINE}.pipeline_model_parallel_size", 2)
    with pytest.raises(SettingsError, match="num_layers_in_first_pipeline_stage=2"):
        megatron.check_model(config)
    for key, value in (
        ("num_layers_in_first_pipeline_stage", 2),
        ("account_for_embedding_in_pipeline_split", True),
        ("pipeline_model_parallel_layout", "Ett|tL"),
    ):
        uneven = config.copy()
        name = f"{ENGINE}.override_transformer_config.{key}"
        OmegaConf.update(uneven, name, value, force_add=True)
        megatron.check_model(uneven)


def test_a_model_of_several_parts_is_left_to_megatron(configured, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"num_attention_heads": 3}}))
    config = configured(f"{ENGINE}.tensor_model_parallel_size=2", "trainer.n_gpus_per_node=2")
    OmegaConf.update(config, "actor_rollout_ref.model.path", str(tmp_path))
    megatron.check_model(config)


def test_a_model_that_is_not_on_this_disk_is_left_to_megatron(configured):
    config = configured(f"{ENGINE}.tensor_model_parallel_size=3")
    OmegaConf.update(config, "actor_rollout_ref.model.path", "Qwen/Qwen3-8B")
    megatron.check_model(config)


def test_doctor_says_what_megatron_finds_and_lacks_here():
    verdict, *lines = probe.megatron_engine()
    assert verdict == "usable on this machine's cpu"
    assert [line.split()[:2] for line in lines] == [
        ["has", "megatron-core"],
        ["has", "mbridge"],
        ["lacks", "megatron-bridge"],
        ["lacks", "transformer-engine"],
    ]
    assert lines[2].endswith("pip install 'verl[megatron]'")


def test_doctor_says_what_installs_a_missing_engine(monkeypatch):
    monkeypatch.setattr("importlib.metadata.distributions", lambda: [])
    verdict, *lines = probe.megatron_engine()
    assert verdict == "not usable: it needs megatron-core and a bridge"
    assert len(lines) == 4
    assert lines[0] == "lacks megatron-core (the engine itself): pip install 'verl-ext[megatron]'"


def test_the_engine_of_a_reference_teacher_is_looked_at_too(verl_config):
    trust = "algorithm.verl_ext.teacher.source=trust_region"
    size = "actor_rollout_ref.ref.megatron.tensor_model_parallel_size=3"
    lines = ("model_engine=megatron", "+paper=sdpo", "+scale=cpu", size)
    check(verl_config(*lines))  # no reference engine is built
    with pytest.raises(SettingsError, match=r"actor_rollout_ref\.ref\.megatron"):
        check(verl_config(*lines, trust))
