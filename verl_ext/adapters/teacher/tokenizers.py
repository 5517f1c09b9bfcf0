"""Student and teacher must read the same token ids, else log-probs are of other words."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher.settings import plan


def vocabulary_hash(tokenizer: Any) -> str:
    """12 hex digits of the tokens and their ids, added ones included."""
    items = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()[:12]


def check(config: DictConfig) -> None:
    """Compares the vocabularies of the student and of each teacher, and the support with them.

    Raises:
        SettingsError: names the two models and both hashes, or the largest support there can be.
    """
    from verl.utils.tokenizer import hf_tokenizer

    wanted = plan(config)
    if wanted.teacher is None or (wanted.teacher.is_own and wanted.divergence is None):
        return
    trust = config.data.get("trust_remote_code", False)

    def tokenizer(path: str) -> Any:
        return hf_tokenizer(path, trust_remote_code=trust)  # type: ignore[no-untyped-call]

    model = config.actor_rollout_ref.model
    student = str(model.get("tokenizer_path") or model.path)
    ours = tokenizer(student)
    top_k = wanted.divergence and wanted.divergence.top_k
    if top_k and top_k > len(ours):
        instead = "" if wanted.teacher.is_own else ", or top_k=null with support=full"
        raise SettingsError(
            f"algorithm.verl_ext.divergence.top_k={top_k} of a vocabulary of {len(ours)}. Add: "
            f"algorithm.verl_ext.divergence.top_k={max(1, len(ours) // 4)}{instead}"
        )
    if wanted.teacher.is_own:
        return
    own = vocabulary_hash(ours)
    for key, path in teachers(config):
        if (other := vocabulary_hash(tokenizer(path))) != own:
            raise SettingsError(
                f"{key}={path} has another vocabulary ({other}) than the student, {student} "
                f"({own}): its log-probs would be of other tokens. Choose a teacher with the "
                "student's tokenizer"
            )


def teachers(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(key of the configuration, path) of each teacher."""
    teacher = plan(config).teacher
    if teacher is None or teacher.is_own:
        return
    if teacher.source == "ref":
        yield "algorithm.verl_ext.teacher.path", str(teacher.path)
        return
    models = config.distillation.teacher_models
    for name, entry in models.items():
        if entry.get("model_path"):
            yield f"distillation.teacher_models.{name}.model_path", str(entry.model_path)
