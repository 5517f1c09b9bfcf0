"""Training on a single question until it is solved."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from verl_ext.adapters import test_time
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.sessions import session_number, sessions
from verl_ext.adapters.trainer.stage import Stage

METRIC = "verl_ext/test_time"


class TestTime(Stage):
    """What ``algorithm.verl_ext.test_time`` asks: stops at the first success, and says when."""

    __test__ = False  # no test of pytest's
    total_training_steps: int
    tokenizer: Any

    def __init__(self, config: DictConfig) -> None:
        self.ext_attempts = test_time.attempts(config)
        super().__init__(config)  # type: ignore[call-arg]

    def _init_dataloader(self) -> None:
        """Refuses more than one question before anything is generated."""
        super()._init_dataloader()  # type: ignore[misc]
        if self.ext_attempts and len(self.train_dataset) != 1:
            raise SettingsError(
                f"{test_time.KEY} counts the attempts at one question, and data.train_files has "
                f"{len(self.train_dataset)}. Add: data.train_max_samples=1 data.shuffle=false (the "
                "first row), or name a file of one row"
            )

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; the step of the first success is the last one."""
        if self.ext_attempts:
            self._ext_count_attempts(batch, metrics)
        done: KVBatchMeta = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        return done

    def _ext_count_attempts(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        attempts = self.ext_attempts
        assert attempts is not None
        last = sessions(batch.keys, batch.tags).last.tolist()  # carries the session's outcome
        last.sort(key=lambda row: session_number(batch.keys[row]))
        data = self.ext_batch.get(batch, ["rm_scores", "responses"])
        place = attempts.see([row.sum().item() for row in _rows(data["rm_scores"], last)])
        metrics[f"{METRIC}/generations"] = float(attempts.count)
        metrics[f"{METRIC}/solved"] = float(attempts.solved)
        if place is not None:
            (response,) = _rows(data["responses"], [last[place]])
            text = self.tokenizer.decode(response.tolist(), skip_special_tokens=True)
            print(
                f"[verl_ext] solved by generation {attempts.count}, in step {self.global_steps}: "
                f"{text}"
            )
            self._ext_end_here()
        elif not attempts.solved and self.global_steps >= self.total_training_steps:
            print(f"[verl_ext] not solved in {attempts.count} generations")

    def _ext_end_here(self) -> None:
        """Ends the run with the step in hand, which is saved and validated if any is.

        verl has asked before the step whether it is the last, and asks after it what is due.
        """
        self.total_training_steps = self.global_steps
        for frequency in ("save_freq", "test_freq"):
            if self.config.trainer[frequency] > 0:
                self.config.trainer[frequency] = 1

    def ext_state(self) -> dict[str, Any]:
        """Adds the number of attempts."""
        saved = super().ext_state()
        if self.ext_attempts:
            saved["attempts"] = {
                "count": self.ext_attempts.count,
                "solved": self.ext_attempts.solved,
            }
        return saved

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Goes on counting; what is solved is not trained on."""
        anew = super().ext_restore(state)
        if not self.ext_attempts:
            return anew
        if "attempts" not in state:
            return [*anew, "the count of attempts"]
        self.ext_attempts.count = state["attempts"]["count"]
        self.ext_attempts.solved = state["attempts"]["solved"]
        if self.ext_attempts.solved:
            self.total_training_steps = self.global_steps
            print(
                f"[verl_ext] solved by generation {self.ext_attempts.count} before the checkpoint "
                f"of step {self.global_steps}: nothing is left to do. To begin anew: "
                "trainer.resume_mode=disable"
            )
        return anew


def _rows(values: Any, numbers: list[int]) -> list[Any]:
    every = values.unbind()
    return [every[number] for number in numbers]
