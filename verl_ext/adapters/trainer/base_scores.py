"""Base scores in the trainer: computed by the first policy, handed to each prompt, kept."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from tqdm import tqdm
from transfer_queue import KVBatchMeta

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.reference_probability import base_scores as store
from verl_ext.adapters.reference_probability.questions import Question, key_of, questions
from verl_ext.adapters.reference_probability.settings import (
    KEY,
    ReferenceProbability,
    reference_probability,
)
from verl_ext.adapters.reference_probability.splicer import Splicer
from verl_ext.adapters.rollout.reference_probability import BASE
from verl_ext.adapters.teacher.rendering import Renderer
from verl_ext.adapters.trainer.scratch import Reading, response_log_probs
from verl_ext.adapters.trainer.self_teaching import rows_multiple
from verl_ext.adapters.trainer.stage import Stage
from verl_ext.reward_fns.splice import of_reference
from verl_ext.toy.cache import cache_root

PRECISION = ("dtype", "model_dtype", "mixed_precision")  # of an engine
CHUNK = 1024  # questions a forward pass of all ranks


class BaseScored(Stage):
    """Where a reference's probability is debiased."""

    ext_reference: ReferenceProbability | None
    ext_bases: store.BaseScores | None
    tokenizer: Any
    processor: Any

    def __init__(self, config: DictConfig) -> None:
        self.ext_reference = reference_probability(config)
        self.ext_bases = None
        super().__init__(config)  # type: ignore[call-arg]

    def _init_dataloader(self) -> None:
        """Finds what is wrong with the references before anything is generated."""
        super()._init_dataloader()  # type: ignore[misc]
        wanted = self.ext_reference
        if wanted is None:
            return
        self._ext_questions = questions(
            self.train_dataset,
            wanted,
            Splicer(self.tokenizer, wanted.rule().tags),
            int(self.config.actor_rollout_ref.rollout.response_length),
        )

    def _load_checkpoint(self) -> None:
        """The last moment with the first policy in the engine, and the servers are asleep."""
        if self.ext_reference is not None and self.ext_reference.debiases:
            self.ext_bases = store.BaseScores(self._ext_base_file())
            missing = self.ext_bases.missing(self._ext_questions)
            begun = perf_counter()
            scores = self._ext_score([self._ext_questions[key] for key in missing])
            self.ext_bases.update(scores, keep=True)
            print(
                f"[verl_ext] base scores of {len(self.ext_bases)} questions: {self.ext_bases.hits} "
                f"from {self.ext_bases.file}, {len(missing)} computed in "
                f"{perf_counter() - begun:.1f} s"
            )
        super()._load_checkpoint()  # type: ignore[misc]

    def _ext_base_file(self) -> Path:
        roles, rule = self.config.actor_rollout_ref, self.ext_reference
        assert rule is not None
        template: Any = self.config.data.get("apply_chat_template_kwargs") or {}
        engine = roles.actor.get("fsdp_config") or roles.actor.get("megatron")
        name = store.fingerprint(
            store.model_identity(roles.model.path),
            [store.model_identity(path) for path in [roles.model.get("lora_adapter_path")] if path],
            roles.model.get("override_config"),
            self.tokenizer.backend_tokenizer.to_str(),
            self.tokenizer.chat_template,
            OmegaConf.to_container(OmegaConf.create(template)),
            self.tokenizer.eos_token,
            rule.reduction,
            [roles.actor.strategy, *(engine.get(name) for name in PRECISION)],
        )
        return cache_root() / "base_scores" / f"{name}.json"

    def _ext_score(self, asked: list[Question]) -> dict[str, float]:
        """The live policy's probability of each reference without reasoning."""
        assert self.ext_reference is not None
        rule = self.ext_reference.rule()
        scores: dict[str, float] = {}
        bar = tqdm(total=len(asked), desc="base scores", unit="question", disable=None)
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            readings = [
                self.ext_reading(self._ext_rendered(question.chat), question.answer.token_ids)
                for question in chunk
            ]
            told = self.ext_actor_log_probs(readings)
            for question, values in zip(chunk, told, strict=True):
                own = of_reference(values.tolist(), question.answer.reference_mask)
                scores[question.key] = rule.score(own)
            bar.update(len(chunk))
        bar.close()
        return scores

    @cached_property
    def _ext_renderer(self) -> Renderer:
        return Renderer(self.config, self.tokenizer, self.processor)

    def _ext_rendered(self, chat: Any) -> list[int]:
        return self._ext_renderer(chat, None)

    @staticmethod
    def ext_reading(prompt_ids: Any, response_ids: Any) -> Reading:
        """A sequence for :meth:`ext_actor_log_probs`."""
        response = torch.tensor(list(response_ids))
        return Reading(torch.tensor(list(prompt_ids)), response, torch.ones_like(response))

    def ext_actor_log_probs(self, readings: list[Reading]) -> list[torch.Tensor]:
        """The live policy's log-probs of each response's tokens, at temperature 1."""
        return response_log_probs(
            self.actor_rollout_wg.compute_log_prob,
            "log_probs",
            readings,
            ranks=max(self.actor_rollout_wg._query_dispatch_info("actor")) + 1,
            rows_multiple=rows_multiple(self.config.actor_rollout_ref),
            extra_info={"temperature": 1.0, "calculate_entropy": False, "compute_loss": False},
        )

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """As verl's; each prompt takes its base score along."""
        batch = super()._next_train_batch(num_prompts)  # type: ignore[misc]
        if self.ext_bases is not None:
            rows = zip(
                batch["data_source"], batch["raw_prompt"], batch["reward_model"], strict=True
            )
            batch[BASE] = torch.tensor([self._ext_base(*row) for row in rows], dtype=torch.float64)
        return batch

    def _ext_base(self, source: Any, chat: Any, reward_model: Any) -> float:
        assert self.ext_reference is not None
        assert self.ext_bases is not None
        if self.ext_reference.weights_of(str(source)).probability == 0:
            return 0.0  # nobody asks
        key = key_of({"raw_prompt": chat, "reward_model": reward_model})
        if key not in self.ext_bases:
            raise SettingsError(
                f"{KEY}: a prompt has no base score, since it was not in the training data when "
                f"the run began. A data set that makes up its rows needs {KEY}.debias=none"
            )
        return self.ext_bases[key]

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """As verl's; after every so many the policy sets new base scores, while servers sleep."""
        batch: KVBatchMeta = super().step(metrics, timing_raw)  # type: ignore[misc]
        wanted = self.ext_reference
        every = wanted.refresh_every if wanted is not None else None
        if self.ext_bases is not None and every and self.global_steps % every == 0:
            self.ext_bases.update(self._ext_score(list(self._ext_questions.values())))
        return batch

    def ext_state(self) -> dict[str, Any]:
        """Adds the scores: a resumed run subtracts the same."""
        state = super().ext_state()
        if self.ext_bases is not None:
            state["base_scores"] = self.ext_bases.state_dict()
        return state

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes them up."""
        anew = super().ext_restore(state)
        if self.ext_bases is not None:
            if "base_scores" in state:
                self.ext_bases.load_state_dict(state["base_scores"])
            else:
                anew.append("base scores")
        return anew
