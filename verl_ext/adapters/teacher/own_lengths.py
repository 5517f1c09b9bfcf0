"""How long what a policy's own teacher reads may be: hints, forward passes, positions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters import lengths
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher.settings import Teacher

KEY = "algorithm.verl_ext.teacher"
ROLES = "actor_rollout_ref"


def check(config: DictConfig, teacher: Teacher) -> None:
    """Refuses prompts without room for hints, and sequences that do not fit a forward pass.

    Raises:
        SettingsError: names the key and the line to type.
    """
    key, length = f"{KEY}.max_prompt_length", teacher.max_prompt_length
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise SettingsError(
            f"{key}: how many tokens may the teacher's prompt have, hints and all? It must be a "
            f"whole number >= 1, got {length!r}. "
            f"Add: +{key}={lengths.longest_sequence(config)} (a prompt and a response)"
        )
    if length <= config.data.max_prompt_length:
        raise SettingsError(
            f"{key}={length} leaves no room for hints: the policy's own prompt has up to "
            f"data.max_prompt_length={config.data.max_prompt_length} tokens. "
            f"Add: {key}={lengths.longest_sequence(config)} (a prompt and a response)"
        )
    rollout, shared = config.actor_rollout_ref.rollout, lengths.shared(config.actor_rollout_ref)
    if shared is None or not rollout.log_prob_use_dynamic_bsz:
        return
    gpus_key, gpus = shared
    budget, longest = rollout.log_prob_max_token_len_per_gpu, _longest(config, teacher)
    if budget * gpus < longest:
        raise SettingsError(
            f"{key} + data.max_response_length = {longest} tokens do not fit "
            f"{ROLES}.rollout.log_prob_max_token_len_per_gpu={budget} x {gpus_key}={gpus}: verl "
            f"stops at the first full sequence. Add: {key}="
            f"{max(1, budget * gpus - config.data.max_response_length)}, or "
            f"{ROLES}.rollout.log_prob_max_token_len_per_gpu={-(-longest // gpus)}, if they fit"
        )


def check_model(config: DictConfig, teacher: Teacher) -> None:
    """Refuses sequences with more positions than the model has; looks at models on this disk alone.

    Raises:
        SettingsError: names both numbers.
    """
    path = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    if not path.is_file():
        return
    overrides: Any = config.actor_rollout_ref.model.get("override_config") or {}
    there = positions(json.loads(path.read_text()) | dict(overrides))
    longest = _longest(config, teacher)
    if there is not None and longest > there:
        raise SettingsError(
            f"{KEY}.max_prompt_length + data.max_response_length = {longest} tokens, and the model "
            f"has {there} positions. Add: {KEY}.max_prompt_length="
            f"{there - config.data.max_response_length}, or shorten data.max_response_length"
        )


def positions(model: Mapping[str, Any]) -> int | None:
    """How many positions a Hugging Face configuration speaks of, None if it does not say."""
    model = model.get("text_config") or model
    declared = model.get("max_position_embeddings")
    if declared is None:
        return None
    rope = model.get("rope_scaling") or model.get("rope_parameters") or {}
    original = rope.get("original_max_position_embeddings")
    stretched = int(original * rope.get("factor", 1)) if original else 0
    return max(int(declared), stretched)


def _longest(config: DictConfig, teacher: Teacher) -> int:
    """Tokens of the longest sequence that the teacher reads."""
    assert teacher.max_prompt_length is not None
    return teacher.max_prompt_length + int(config.data.max_response_length)
