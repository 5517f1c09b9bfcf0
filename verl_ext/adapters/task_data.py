"""The training data as task-balanced sampling needs it from verl: tasks, loader, saved position."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.suggest import nearest

KEY = "algorithm.verl_ext.sampler.task_balanced"


class Loader(StatefulDataLoader):  # type: ignore[misc]
    """verl's loader; it refuses a position that is not the stream's instead of starting anew."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a data.pt; see ``check_loaded``."""
        check_loaded(state_dict)
        super().load_state_dict(state_dict)
        try:
            # Loading waits for the first iterator; this makes it, before any refill is drawn.
            self.state_dict()
        except ValueError as error:
            raise SettingsError(f"{KEY}, data.pt of the checkpoint: {error}") from error


def check_loaded(dataloader_state: Mapping[str, Any]) -> None:
    """Refuses a checkpoint's data.pt that was not written with this sampler.

    Raises:
        SettingsError: it holds no position of a task-balanced stream.
    """
    snapshot = dataloader_state.get("_snapshot", {}).get("_main_snapshot", dataloader_state)
    position = (snapshot.get("_sampler_iter_state") or {}).get("sampler_state") or {}
    if "visits" not in position:
        raise SettingsError(
            f"{KEY}: the checkpoint's data.pt was written with another sampler, its position means "
            "nothing here; start anew (trainer.resume_mode=disable), or resume without task balance"
        )


def require_column(frame: Any, task_key: str) -> None:
    """Refuses a name of the tasks' column that the data does not have.

    Args:
        frame: a data set's ``dataframe``, of Hugging Face (``column_names``) or pandas.
        task_key: the name.

    Raises:
        SettingsError: names the nearest column.
    """
    columns = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    if task_key not in columns:
        hint = f"did you mean {nearest(task_key, columns)!r}? " if columns else ""
        raise SettingsError(
            f"algorithm.verl_ext.task_key: no column {task_key!r} in the data; {hint}"
            f"The columns are {', '.join(columns)}"
        )


def task_ids(dataset: Any, task_key: str) -> list[Hashable]:
    """The task of each row of verl's data set.

    Args:
        dataset: its ``dataframe`` holds the rows that are left after filtering.
        task_key: a column of text or numbers.

    Raises:
        SettingsError: there is no such column, or it holds something else.
    """
    frame = getattr(dataset, "dataframe", None)
    if frame is None:
        raise SettingsError(
            f"{KEY}: {type(dataset).__name__} has no attribute dataframe. A data.custom_cls needs "
            "one whose columns are those of its rows, in the order of its indices"
        )
    require_column(frame, task_key)
    column = frame[task_key]
    tasks = column.tolist() if hasattr(column, "tolist") else list(column)
    for row, task in enumerate(tasks):
        if not isinstance(task, str | int | float) or task != task:  # not a number
            raise SettingsError(
                f"algorithm.verl_ext.task_key: column {task_key!r} must hold text or numbers, row "
                f"{row} holds {task!r:.80}"
            )
    return tasks


def require_tasks(key: str, values: Mapping[Any, Any], tasks: Iterable[Hashable]) -> None:
    """Refuses a setting with a value for each task whose names are not those of the data.

    Args:
        key: of the setting.
        values: by task.
        tasks: of each row of the data.

    Raises:
        SettingsError: names the task nearest to one that is not there; or those without a value,
            and the line to type.
    """
    there = dict.fromkeys(tasks)
    refuse_unknown(key, [str(task) for task in values if task not in there], map(str, there))
    lacking = [str(task) for task in there if task not in values]
    if lacking:
        whole = ", ".join(f"{task}: {values.get(task, 1.0)}" for task in there)
        raise SettingsError(
            f"{key}: the training data's {', '.join(lacking)} lack a value; 1.0 changes nothing. "
            f"Add: '{key}={{{whole}}}'"
        )
