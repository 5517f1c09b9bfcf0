"""Reads the file of a step that was stopped for NaN, and does its stage again on the CPU."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from verl import DataProto
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils.reward_score import default_compute_score

from verl_ext.adapters import advantage
from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.teacher.settings import plan, rewarded_estimator
from verl_ext.adapters.teacher.task import task_alone
from verl_ext.adapters.trainer.finite import VERSION
from verl_ext.adapters.trainer.stage import task_key
from verl_ext.catalog import ADVANTAGES


@dataclass(frozen=True)
class Replay:
    """A stopped stage.

    Attributes:
        stage: which one.
        field: what was no number in it.
        step: of the run.
        keys: of the rows, ``<prompt>_<session>_<output>``.
        bad: keys of those that were no numbers.
        rows: field -> a value for each key.
        config: verl's, of the run.
    """

    stage: str
    field: str
    step: int
    keys: list[str]
    bad: list[str]
    rows: dict[str, list[Any]]
    config: DictConfig

    def row(self, key: str) -> dict[str, Any]:
        """The fields of one row."""
        place = self.keys.index(key)
        return {name: values[place] for name, values in self.rows.items()}


def read(file: Path) -> Replay:
    """Reads what ``adapters.trainer.finite`` has written.

    Args:
        file: ``not_finite_step_<n>_<stage>.pt``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another version, or no such file.
    """
    saved = torch.load(file, weights_only=True)
    if not isinstance(saved, dict) or saved.pop("version", None) != VERSION:
        raise ValueError(f"{file} is no file of a stopped step of this verl-ext")
    return Replay(**saved | {"config": OmegaConf.create(saved["config"])})


def where(replay: Replay, key: str) -> int | None:
    """The first sampled token whose field is no number; None where the field is no row's."""
    row = replay.row(key)
    if replay.field not in row:
        return None
    wrong = (~row[replay.field].isfinite() & row["response_mask"].bool()).nonzero()
    return int(wrong[0]) if len(wrong) else None


def again(replay: Replay, model: str | None) -> Iterator[tuple[str, bool]]:
    """Does the stage again, row by row: the row's key and words, and whether it is a number now.

    Args:
        replay: what was saved.
        model: path of the weights for what a model has computed; None for the run's first.
    """
    if replay.stage == "rewards":
        yield from _rewards(replay)
    elif replay.stage == "advantages":
        yield from _advantages(replay)
    else:
        yield from _with_model(replay, model or _first_weights(replay))


def _rewards(replay: Replay) -> Iterator[tuple[str, bool]]:
    from verl.utils.tokenizer import hf_tokenizer

    score: Callable[..., Any] = get_custom_reward_fn(replay.config) or default_compute_score
    path = str(replay.config.actor_rollout_ref.model.path)
    tokenizer = hf_tokenizer(path)  # type: ignore[no-untyped-call]
    for key in replay.bad:
        row = replay.row(key)
        found = score(
            data_source=row["data_source"],
            solution_str=tokenizer.decode(row["responses"], skip_special_tokens=True),
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info=row.get("extra_info") or {},
        )
        found = asyncio.run(found) if inspect.iscoroutine(found) else found
        value = float(found["score"] if isinstance(found, dict) else found)
        yield f"{key}: the reward function gives {found}", bool(np.isfinite(value))


def _advantages(replay: Replay) -> Iterator[tuple[str, bool]]:
    rewards, mask = (
        pad_sequence(replay.rows[name], batch_first=True) for name in ("rm_scores", "response_mask")
    )
    algorithm, mix = replay.config.algorithm, plan(replay.config).mix
    name = rewarded_estimator(replay.config)
    columns = {"group_ids": "uid", "task_ids": task_key(replay.config)}
    declared = advantage.declared_fields(name) if name in ADVANTAGES else ()
    context = advantage.BatchContext(
        sessions(replay.keys, [{}] * len(replay.keys)),
        mask.bool(),
        {ours: replay.rows[columns[ours]] for ours in declared},
    )
    data = DataProto.from_dict(
        tensors={"token_level_rewards": rewards, "response_mask": mask},
        non_tensors={"uid": np.array(replay.rows["uid"], dtype=object)},
    )
    try:
        with task_alone(algorithm, mix), advantage.batch_context(context):
            made = compute_advantage_for_multi_trajectories(
                data,
                batch_keys=replay.keys,
                adv_estimator=name,
                gamma=algorithm.gamma,
                lam=algorithm.lam,
                num_repeat=replay.config.actor_rollout_ref.rollout.n,
                norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
                config=algorithm,
            )
    except ValueError as error:  # an estimator of ours, which refuses such rewards
        yield f"{name}: {error}", False
        return
    for key in replay.bad:
        row = made.batch["advantages"][replay.keys.index(key)]
        total = replay.row(key)["rm_scores"].sum().item()
        yield f"{key}: reward {total:g}, advantages {_range(row)}", bool(row.isfinite().all())


def _first_weights(replay: Replay) -> str:
    """Path of what the stage's worker began with: a reference worker may hold a teacher."""
    teacher = plan(replay.config).teacher
    if replay.stage == "reference" and teacher and teacher.source == "ref":
        return str(teacher.path)
    return str(replay.config.actor_rollout_ref.model.path)


def _with_model(replay: Replay, path: str) -> Iterator[tuple[str, bool]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)
    temperature = replay.config.actor_rollout_ref.rollout.temperature
    for key in replay.bad:
        row = replay.row(key)
        model.zero_grad()
        log_probs = _log_probs(model, row["prompts"], row["responses"], temperature)
        words, good = f"{key}: log-probs {_range(log_probs)}", bool(log_probs.isfinite().all())
        if replay.stage == "update":
            mask = row["response_mask"].bool()
            ratio = (log_probs - row["old_log_probs"]).exp()
            loss = -(ratio * row["advantages"])[mask].mean()
            loss.backward()
            squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
            norm = torch.stack(squares).sum().sqrt()
            words += f", loss {loss.item():g}, norm of its gradient {norm.item():g}"
            good = good and bool(norm.isfinite()) and bool(loss.isfinite())
        yield words, good


def _log_probs(model: Any, prompt: Tensor, response: Tensor, temperature: float) -> Tensor:
    """(time,) of each token of the response."""
    tokens = torch.cat([prompt, response]).long()
    logits = model(tokens.unsqueeze(0)).logits[0, len(prompt) - 1 : -1].float() / temperature
    chosen: Tensor = logits.log_softmax(-1).gather(-1, response.long().unsqueeze(-1))
    return chosen.squeeze(-1)


def _range(values: Tensor) -> str:
    bad = int((~values.isfinite()).sum())
    if bad:
        return f"no number in {bad} of {values.numel()}"
    return f"from {values.min().item():.4g} to {values.max().item():.4g}"
