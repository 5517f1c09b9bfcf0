"""``algorithm.verl_ext.deterministic``: a run that can be repeated bit for bit.

Every request gets a seed of its own, so it does not matter which server answers it, or when; and
whatever finishes when, batches hold their rows in the order in which the prompts were asked.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from verl.utils.tensordict_utils import assign_non_tensor_stack

from verl_ext.adapters import state_file
from verl_ext.adapters.rollout.seeds import SeededClient, derived_seed
from verl_ext.adapters.trainer import our_workers
from verl_ext.adapters.trainer.stage import Stage, settings


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
        if not under_way(partition):
            return reasons(step, partition)
        # Where verl owes more prompts than may be under way, it fills the places of those that have
        # finished by now. Until all have, let no place look free; the next look forgets this.
        places = getattr(buffer, "max_inflight_gen_batches", 1) * (buffer.train_batch_size or 0)
        buffer.pending_keys[partition] |= {f"held back {number}" for number in range(places)}
        return set(), set(), set(), Counter()

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
            our_workers.choose(config, "algorithm.verl_ext.deterministic hands out seeds")
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
