"""Seeds of requests: what is sampled does not depend on which server is asked, or when."""

import hashlib
from collections import Counter
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.workers.rollout.llm_server import LLMServerClient

SEED = "verl_ext_seed"


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from anything with a stable text; unlike ``hash``, alike everywhere."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class SeededClient(LLMServerClient):
    """Gives each request of a session, one a turn, a seed of its own."""

    async def generate(
        self, request_id: Any, *, prompt_ids: Any, sampling_params: dict[str, Any], **kwargs: Any
    ) -> Any:
        """As verl's; a turn is told by the length of what it continues."""
        if "seed" in sampling_params:
            seed = derived_seed(sampling_params["seed"], len(prompt_ids))
            sampling_params = {**sampling_params, "seed": seed}
        return await super().generate(
            request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, **kwargs
        )


class SeededSessions:
    """Mixed in before a worker: hands a session's seed to its agent loop, if its prompt has one."""

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        if SEED in kwargs:
            seed = derived_seed(int(kwargs.pop(SEED)), kwargs["session_id"])
            sampling_params = {**sampling_params, "seed": seed}
        return await super()._run_agent_loop(  # type: ignore[misc]
            sampling_params, trajectory, **kwargs
        )


class SeededPrompts:
    """Mixed in before a manager, for a run that asks for seeds (``deterministic``).

    Seeds every prompt by run seed, step, data index, and its turn where an index comes again.

    Attributes:
        position: of each prompt asked for in this step or validation, by its id.
    """

    config: DictConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.position: dict[str, int] = {}
        self._occasion: tuple[Any, ...] = ()
        self._turns: Counter[str] = Counter()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """As verl's, with a field more."""
        if (self.config.algorithm.get("verl_ext") or {}).get("deterministic"):
            self._seed(prompts)
        super().generate_sequences(prompts)  # type: ignore[misc]

    def _seed(self, prompts: TensorDict) -> None:
        occasion = (prompts["global_steps"], "validate" in prompts)
        if occasion != self._occasion:
            self._occasion, self.position = occasion, {}
            self._turns.clear()
        seeds = []
        for uid, index in zip(prompts["uid"], map(str, prompts["index"]), strict=True):
            self.position[uid] = len(self.position)
            seeds.append(derived_seed(self.config.data.seed, *occasion, index, self._turns[index]))
            self._turns[index] += 1
        prompts[SEED] = torch.tensor(seeds)
