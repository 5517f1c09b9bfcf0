"""Real models without their weights: what the GPU scales are made for."""

import functools
import json

import pytest
from gpu_scales.scales import ENGINES
from omegaconf import OmegaConf

# From each model's config.json on Hugging Face; the comment names the repository. Keys are Hugging
# Face's own, so that the table is the configuration.
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
MODELS = {
    "Qwen2.5-0.5B": QWEN2  # Qwen/Qwen2.5-0.5B-Instruct
    | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 64}
    | {"vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True},
    "Qwen2.5-1.5B": QWEN2  # Qwen/Qwen2.5-1.5B-Instruct
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    | {"num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128}
    | {"vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True},
    "Qwen2.5-7B": QWEN2  # Qwen/Qwen2.5-7B-Instruct
    | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    | {"num_attention_heads": 28, "num_key_value_heads": 4, "head_dim": 128}
    | {"vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False},
    "Qwen3-8B": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}  # Qwen/Qwen3-8B
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": False},
    # Qwen/Qwen3-4B-Thinking-2507
    "Qwen3-4B": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"vocab_size": 151936, "max_position_embeddings": 262144, "tie_word_embeddings": True},
    # Qwen/Qwen3-30B-A3B-Instruct-2507 and -Thinking-2507
    "Qwen3-30B-A3B": {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48}
    | {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128}
    | {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}
    | {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    | {"vocab_size": 151936, "max_position_embeddings": 262144, "tie_word_embeddings": False},
}
SCALE_MODELS = {  # the default first, then what a change of the path alone brings
    "cpu": ["Qwen2.5-0.5B"],
    "gpu1": ["Qwen2.5-0.5B", "Qwen2.5-1.5B"],
    "gpu8": ["Qwen2.5-7B", "Qwen3-8B"],
    "gpu64": ["Qwen3-30B-A3B"],
}


@pytest.fixture(scope="session")
def models():
    """Hugging Face configuration of each model, by name."""
    return MODELS


@pytest.fixture(scope="session")
def scale_models():
    """The models of each scale, its default first."""
    return SCALE_MODELS


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of a model by name: true configuration, a tokenizer of two words, no weights."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>"
    )
    folders = {}
    for name, config in MODELS.items():
        folders[name] = str(tmp_path_factory.mktemp(name))
        tokenizer.save_pretrained(folders[name])
        with open(f"{folders[name]}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
    return folders


@pytest.fixture(scope="session")
def typed(model_folder):
    """Composed configuration and verl's typed actor of a scale, engine and model; read-only."""
    from hydra import compose, initialize_config_module
    from verl.utils.config import omega_conf_to_dataclass

    @functools.cache  # many tests look at the same few configurations
    def build(scale, engine, model, *overrides, paper="w_reinforce"):
        path = f"actor_rollout_ref.model.path={model_folder[model]}"
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose(
                "ppo_trainer",
                [*ENGINES[engine], f"+paper={paper}", f"+scale={scale}", path, *overrides],
            )
        OmegaConf.resolve(config)
        OmegaConf.set_readonly(config, True)
        return config, omega_conf_to_dataclass(config.actor_rollout_ref.actor)

    return build
