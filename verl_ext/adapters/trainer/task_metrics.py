"""How well each task does, and how loudly it speaks: rewards and shares of the advantage."""

from typing import Any

import torch
from transfer_queue import KVBatchMeta

from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.task_data import require_column
from verl_ext.adapters.trainer.stage import Stage, settings, task_key
from verl_ext.metrics.task_share import advantage_share


class TaskMetrics(Stage):
    """Adds metrics for each task of a batch, where ``algorithm.verl_ext.task_key`` names tasks."""

    def _init_dataloader(self) -> None:
        """Finds a misspelt column before anything is generated."""
        super()._init_dataloader()  # type: ignore[misc]
        frame = getattr(self.train_dataset, "dataframe", None)  # a class of one's own may have none
        if settings(self.config).get("task_key") and frame is not None:
            require_column(frame, task_key(self.config))

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Past verl's aggregation over sub-batches, which reads meaning into names."""
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        if settings(self.config).get("task_key"):
            metrics.update(self._ext_task_metrics(batch))
        self.ext_batch.clear()

    def _ext_task_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        """No shares where an advantage is no number and the run goes on all the same."""
        column = task_key(self.config)
        needed = ["advantages", "response_mask", "rm_scores", column]
        data = self.ext_batch.get(batch, needed)
        rows = sessions(batch.keys, batch.tags)
        last = rows.last
        tasks = [str(data[column][row]) for row in last.tolist()]
        advantages, mask = (
            rows.merged(data[name].to_padded_tensor(0)) for name in ("advantages", "response_mask")
        )
        rewards = data["rm_scores"].to_padded_tensor(0)[last].sum(-1, dtype=torch.float64)
        found = {}
        if not self.ext_goes_on or advantages[mask.bool()].isfinite().all():
            shares = advantage_share(advantages, mask, tasks)
            found = {f"verl_ext/task/{task}/advantage_share": shares[task] for task in shares}
        for task in dict.fromkeys(tasks):
            of_task = torch.tensor([name == task for name in tasks])
            found[f"verl_ext/task/{task}/reward"] = rewards[of_task].mean().item()
            found[f"verl_ext/task/{task}/rows"] = float(of_task.sum())
        return found
