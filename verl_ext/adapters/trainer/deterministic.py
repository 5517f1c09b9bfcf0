"""``algorithm.verl_ext.deterministic``: a run that can be repeated bit for bit.

Every request gets a seed of its own, so it does not matter which server answers it, or when; and
whatever finishes when, batches hold their rows in the order in which the prompts were asked.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import ray
import torch
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tensordict_utils import assign_non_tensor_stack
from verl.workers.rollout.llm_server import LLMServerClient

from verl_ext.adapters.trainer import state_file
from verl_ext.adapters.trainer.stage import Stage, settings

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


class SeededWorker(AgentLoopWorkerTQ.__ray_actor_class__):  # type: ignore[misc,name-defined]
    """Hands a session's seed to its agent loop, as one of the sampling parameters."""

    # Ray copies inherited methods into the actor's class, and verl's __init__ does not survive
    # that: its ``super()`` names a class that ``ray.remote`` hides from look-up by name.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        seed = derived_seed(int(kwargs.pop(SEED)), kwargs["session_id"])
        return await super()._run_agent_loop(
            {**sampling_params, "seed": seed}, trajectory, **kwargs
        )


class SeededManager(AgentLoopManagerTQ):
    """Seeds every prompt by run seed, step, data index, and its turn where an index comes again.

    Attributes:
        position: of each prompt asked for in this step or validation, by its id.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.agent_loop_workers_class = ray.remote(SeededWorker)
        self.position: dict[str, int] = {}
        self._occasion: tuple[Any, ...] = ()
        self._turns: Counter[str] = Counter()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """As verl's, with a field more."""
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
        super().generate_sequences(prompts)


MANAGER = f"{__name__}.{SeededManager.__name__}"


def in_order(buffer: Any, position: Callable[[str], int]) -> None:
    """Makes a replay buffer's batches independent of when rollouts finish.

    Rows come in the order of their prompts; and in training nothing is filtered, refilled or
    selected while anything is under way, since what is ready by then is a matter of time.

    Args:
        buffer: verl's, of a synchronous trainer.
        position: of a prompt, by its id.
    """
    reasons, sampleable = buffer._terminal_eviction_reasons, buffer._sampleable_terminal_keys
    select, materialize = buffer._select_prompt_uids, buffer._materialize_batch

    def under_way(partition: str) -> bool:
        waiting = buffer.pending_keys[partition] | buffer.running_keys[partition]
        return partition == "train" and bool(waiting)

    @wraps(reasons)
    def settled_reasons(step: int, partition: str) -> Any:
        return (
            (set(), set(), set(), Counter()) if under_way(partition) else reasons(step, partition)
        )

    @wraps(sampleable)
    def settled_keys(partition: str, found: Any) -> Any:
        return set() if under_way(partition) else sampleable(partition, found)

    @wraps(select)
    def select_in_order(partition: str, keys: Any, batch_size: int) -> Any:
        return select(partition, sorted(keys, key=position), batch_size)

    @wraps(materialize)
    def rows_in_order(partition: str, uids: list[str], rows: dict[str, Any]) -> Any:
        return materialize(partition, uids, dict(sorted(rows.items(), key=place)))

    def place(row: tuple[str, Any]) -> tuple[int, int, int]:
        uid, session, output = row[0].split("_")
        return position(uid), int(session), int(output)

    buffer._terminal_eviction_reasons = settled_reasons
    buffer._sampleable_terminal_keys = settled_keys
    buffer._select_prompt_uids, buffer._materialize_batch = select_in_order, rows_in_order


class Deterministic(Stage):
    """Seeds, numbered prompts and fixed orders, where the configuration asks for them."""

    def __init__(self, config: DictConfig) -> None:
        self.ext_deterministic = bool(settings(config).get("deterministic"))
        self._ext_prompts = 0
        if self.ext_deterministic:
            state_file.seed_generators(config.data.seed)
            with open_dict(config):
                config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = MANAGER
        super().__init__(config)  # type: ignore[call-arg]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self.ext_deterministic:
            in_order(buffer, lambda uid: self.agent_loop_manager.position[uid])
        return buffer

    def _fetch_one_gen_batch(self) -> TensorDict:
        """Numbers the prompts, where verl draws ids for them."""
        batch = super()._fetch_one_gen_batch()  # type: ignore[misc]
        if self.ext_deterministic:
            numbers = range(self._ext_prompts, self._ext_prompts + len(batch))
            assign_non_tensor_stack(batch, "uid", [f"{number:09d}" for number in numbers])
            self._ext_prompts = numbers.stop
        return batch

    def get_llm_client(self) -> Any:
        """A client that passes the requests' seeds on."""
        if self.ext_deterministic:
            return self.llm_server_manager.get_client(client_cls=SeededClient)
        return super().get_llm_client()  # type: ignore[misc]

    def on_validate_begin(self) -> None:
        """Lets a validation depend on its step alone."""
        super().on_validate_begin()  # type: ignore[misc]
        if self.ext_deterministic:
            self._ext_generators = state_file.generators()
            state_file.seed_generators(derived_seed(self.config.data.seed, self.global_steps))

    def on_validate_end(self) -> None:
        """Lets training go on as if there had been no validation."""
        super().on_validate_end()  # type: ignore[misc]
        if self.ext_deterministic:
            state_file.restore_generators(self._ext_generators)

    def ext_state(self) -> dict[str, Any]:
        """Adds the number of the next prompt."""
        return super().ext_state() | {"prompts": self._ext_prompts}

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes it up."""
        self._ext_prompts = state.get("prompts", 0)
        return super().ext_restore(state)
