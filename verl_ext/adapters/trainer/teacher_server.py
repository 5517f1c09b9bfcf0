"""Teacher servers seen from the trainer: a failure stops the run, and metrics say who taught."""

from collections import Counter
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import need_teacher_policy

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.rollout.stopping import stop_when_told
from verl_ext.adapters.rollout.teacher_server import KEY, REPORT
from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.trainer import our_workers
from verl_ext.adapters.trainer.stage import Stage


class TeacherServers(Stage):
    """Where ``distillation.enabled``: workers that report, a look at their reports, metrics."""

    def __init__(self, config: DictConfig) -> None:
        self.ext_servers = bool(need_teacher_policy(config))
        self._ext_announced: set[str] = set()
        if self.ext_servers:
            our_workers.choose(config, "distillation.enabled: teacher servers are looked after")
        super().__init__(config)  # type: ignore[call-arg]

    def _init_dataloader(self) -> None:
        """Finds prompts without a teacher before anything is generated."""
        super()._init_dataloader()  # type: ignore[misc]
        frame = getattr(self.train_dataset, "dataframe", None)  # a class of one's own may have none
        if self.ext_servers and frame is not None:
            require_teachers(self.config.distillation, frame)

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self.ext_servers:
            stop_when_told(buffer)
        return buffer

    def ext_dropped_rows(self, batch: KVBatchMeta) -> Tensor | None:
        """(rows,) True where a row has no teacher's log-probs but zeros; False for padding rows."""
        if not self.ext_servers:
            return super().ext_dropped_rows(batch)
        reports = self._ext_reports(batch)
        return torch.tensor([bool(report and report["failure"]) for report in reports])

    def _ext_reports(self, batch: KVBatchMeta) -> list[dict[str, Any] | None]:
        """Of each row; padding rows carry a copy of another row's and have none of their own."""
        extra = self.ext_batch.get(batch, ["extra_fields"])["extra_fields"]
        return [
            None if tag.get("is_padding", False) else fields.get(REPORT)
            for fields, tag in zip(extra, batch.tags, strict=True)
        ]

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Past verl's aggregation over sub-batches, which reads meaning into names."""
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        if self.ext_servers:
            metrics.update(self._ext_server_metrics(batch))

    def _ext_server_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        of_rows = self._ext_reports(batch)
        last = sessions(batch.keys, batch.tags).last.tolist()
        taught = Counter(report["teacher"] for row in last if (report := of_rows[row]))
        found = [report for report in of_rows if report]
        failed = [report for report in found if report["failure"]]
        answered = [report for report in found if not report["failure"]]
        self._ext_announce(failed, len(found))
        tokens = sum(report["tokens"] for report in answered)
        broken = sum(report["non_finite"] for report in answered)
        return {
            **{f"verl_ext/teacher/share/{name}": n / len(last) for name, n in taught.items()},
            "verl_ext/teacher/failed": len(failed) / max(len(found), 1),
            "verl_ext/teacher/non_finite": broken / max(tokens, 1),
        }

    def _ext_announce(self, failed: list[dict[str, Any]], rows: int) -> None:
        """Says once of each teacher that its rows are dropped; the metric says it every step."""
        for name, count in Counter(report["teacher"] for report in failed).items():
            if name not in self._ext_announced:
                self._ext_announced.add(name)
                why = next(report["failure"] for report in failed if report["teacher"] == name)
                print(
                    f"[verl_ext] step {self.global_steps}: teacher {name!r} failed for {count} of "
                    f"{rows} rows, which teach nothing ({KEY}.on_teacher_failure=drop): {why}"
                )


def require_teachers(distillation: DictConfig, frame: Any) -> None:
    """Refuses training data with prompts that no teacher is for.

    Args:
        distillation: verl's section.
        frame: a data set's ``dataframe``, of Hugging Face or pandas.

    Raises:
        SettingsError: names the column, the value and the nearest teacher.
    """
    models: Any = OmegaConf.to_container(distillation.teacher_models, resolve=True)
    if len(models) == 1:
        return  # verl asks the one teacher, whatever the row says
    keys = [model["key"] for name, model in models.items() if name != "teacher_model"]
    column = str(distillation.teacher_key)
    columns = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    refuse_unknown("distillation.teacher_key", [column], columns)
    for value in dict.fromkeys(frame[column]):
        if value not in keys:
            raise SettingsError(
                f"distillation.teacher_models: no teacher for the training data's "
                f"{column}={value!r}. There are: {', '.join(map(repr, keys))}. "
                f"Add: +distillation.teacher_models.NAME.key={value}, with its model_path"
            )
