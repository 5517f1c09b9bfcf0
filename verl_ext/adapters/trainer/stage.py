"""What the stages of our trainers share."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from transfer_queue import KVBatchMeta

from verl_ext.adapters.names import TASK_KEY
from verl_ext.adapters.trainer.batch_fields import BatchFields


class Stage:
    """A concern of the trainer, mixed in before verl's class: overrides stages, copies none.

    The attributes are verl's own, named here for readers and the type checker.
    """

    config: DictConfig
    global_steps: int
    actor_rollout_wg: Any
    agent_loop_manager: Any
    llm_server_manager: Any
    train_dataset: Any
    train_dataloader: Any
    train_dataloader_it: Any
    replay_buffer: Any
    _add_prompts_to_generate: Any
    kl_ctrl_in_reward: Any

    @property
    def ext_rollout_servers(self) -> Any:
        """verl's manager of the servers that sample.

        Under ``separate_async`` these have devices of their own; those of ``llm_server_manager``,
        on the trainer's, sleep while it trains.
        """
        return getattr(self, "standalone_server_manager", self.llm_server_manager)

    @property
    def ext_loss_teaches(self) -> bool:
        """Whether tokens without an advantage teach too, by another term of the loss."""
        return False

    @property
    def ext_wants_reference(self) -> bool:
        """Whether anybody reads the log-probs of the reference worker."""
        return True

    @property
    def ext_goes_on(self) -> bool:
        """Whether NaN and infinity are reported and the run goes on (``not_finite=report``)."""
        return bool(settings(self.config).get("not_finite", "stop") == "report")

    def ext_dropped_rows(self, batch: KVBatchMeta) -> Tensor | None:
        """(rows,) True where a row is to leave the batch's loss; None if there are no such rows."""
        return None

    def ext_taught_tokens(self, batch: KVBatchMeta, mask: Tensor) -> Tensor:
        """(rows, time) True on the sampled tokens that a teacher judges."""
        return mask

    @cached_property
    def ext_batch(self) -> BatchFields:
        """The fields of the batch in hand."""
        return BatchFields()

    def ext_state(self) -> dict[str, Any]:
        """What a resumed run needs; each stage adds its part under a name of its own."""
        return {}

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes up what was saved.

        Args:
            state: of :meth:`ext_state`; parts are missing where the run was saved without them.

        Returns:
            What starts anew for want of a saved state, in words.
        """
        return []


def settings(config: DictConfig) -> Mapping[str, Any]:
    """The subtree ``algorithm.verl_ext``, empty if there is none."""
    return config.algorithm.get("verl_ext") or {}


def task_key(config: DictConfig) -> str:
    """The column that names each prompt's task."""
    return str(settings(config).get("task_key") or TASK_KEY)
