"""pass@k beside verl's own validation metrics."""

from typing import Any

from verl_ext.adapters.trainer.stage import Stage
from verl_ext.adapters.validation import pass_at_k_metrics


class PassAtK(Stage):
    """Adds pass@k to verl's validation."""

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        metrics: dict[str, float] = super()._val_metrics_update(  # type: ignore[misc]
            data_sources,
            sample_uids,
            reward_extra_infos_dict,
            sample_turns,
            expected_acc_counts=expected_acc_counts,
        )
        metrics.update(
            pass_at_k_metrics(
                data_sources, sample_uids, reward_extra_infos_dict, expected_acc_counts or {}
            )
        )
        return metrics
