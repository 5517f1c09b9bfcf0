"""Task-balanced prompts: the loader, the replacements, and batches that meet their quotas."""

from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.utils.dataset.rl_dataset import collate_fn

from verl_ext.adapters.task_balance import TRAIN, TaskBalance
from verl_ext.adapters.trainer.stage import Stage, settings, task_key


class Sampling(Stage):
    """Puts a task-balanced stream in the place of verl's sampler, where one is asked for."""

    ext_balance: TaskBalance | None

    def __init__(self, config: DictConfig) -> None:
        self.ext_balance = None
        self._ext_refilling = False
        super().__init__(config)  # type: ignore[call-arg]

    def _init_dataloader(self) -> None:
        super()._init_dataloader()  # type: ignore[misc]
        sampler = settings(self.config).get("sampler") or {}
        if "task_balanced" not in sampler:
            return
        plain: Any = OmegaConf.to_object(OmegaConf.create(dict(sampler["task_balanced"] or {})))
        data = self.config.data
        self.ext_balance = TaskBalance(
            self.train_dataset,
            weights=plain.get("weights", "uniform"),
            task_key=task_key(self.config),
            batch_size=data.train_batch_size,
            seed=data.seed,
            shuffle=data.shuffle,
        )
        fetch = data.get("gen_batch_size") or data.train_batch_size
        self.train_dataloader = self.ext_balance.dataloader(
            batch_size=fetch,
            num_workers=data.dataloader_num_workers,
            collate_fn=collate_fn,
            refills=fetch == 1,
        )
        self.ext_balance.watch(self.replay_buffer)
        self.replay_buffer.refill_fn = self._ext_refill

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        batch = super()._next_train_batch(num_prompts)  # type: ignore[misc]
        if self.ext_balance:
            tasks = list(batch[task_key(self.config)])
            self.ext_balance.drawn(list(batch["uid"]), tasks, refill=self._ext_refilling)
        return batch

    def _ext_refill(self, count: int) -> int:
        """Replaces dropped prompts by others of the same tasks, fetched beside the loader."""
        assert self.ext_balance
        rows = [self.train_dataset[index] for index in self.ext_balance.refill_indices(count)]
        loader, self._ext_refilling = self.train_dataloader_it, True
        self.train_dataloader_it = iter([collate_fn([row]) for row in rows])
        try:
            return int(self._add_prompts_to_generate(count))
        finally:
            self.train_dataloader_it, self._ext_refilling = loader, False

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Adds the tasks' shares, past verl's aggregation, which reads meaning into names."""
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        if self.ext_balance:
            metrics.update(self.ext_balance.metrics())

    def ext_state(self) -> dict[str, Any]:
        """Adds what batches owe; the stream's position is in verl's ``data.pt``."""
        owed = {"sampler": self.ext_balance.state_dict()} if self.ext_balance else {}
        return super().ext_state() | owed

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes it up; verl's queue, where it is saved, must hold what is owed."""
        if self.ext_balance and "sampler" in state:
            self.ext_balance.load_state_dict(state["sampler"])
            tags = (tq.kv_list(TRAIN) or {}).get(TRAIN, {})
            self.ext_balance.check_restored(
                uid for uid, tag in tags.items() if tag.get("is_prompt")
            )
        return super().ext_restore(state)
