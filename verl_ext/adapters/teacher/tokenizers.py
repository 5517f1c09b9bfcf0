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
    """Compares the vocabularies of the student and of each teacher.

    Raises:
        SettingsError: names the two models and both hashes.
    """
    from verl.utils.tokenizer import hf_tokenizer

    if plan(config).teacher is None:
        return
    trust = config.data.get("trust_remote_code", False)

    def hashed(path: str) -> str:
        return vocabulary_hash(hf_tokenizer(path, trust_remote_code=trust))  # type: ignore[no-untyped-call]

    model = config.actor_rollout_ref.model
    student = str(model.get("tokenizer_path") or model.path)
    own = hashed(student)
    for key, path in teachers(config):
        if (other := hashed(path)) != own:
            raise SettingsError(
                f"{key}={path} has another vocabulary ({other}) than the student, {student} "
                f"({own}): its log-probs would be of other tokens. Choose a teacher with the "
                "student's tokenizer"
            )


def teachers(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(key of the configuration, path) of each teacher."""
    teacher = plan(config).teacher
    if teacher is None:
        return
    if teacher.source == "ref":
        yield "algorithm.verl_ext.teacher.path", str(teacher.path)
        return
    models = config.distillation.teacher_models
    for name, entry in models.items():
        if entry.get("model_path"):
            yield f"distillation.teacher_models.{name}.model_path", str(entry.model_path)
