"""How verl's own loop ends with a question that is solved, its steps and its disk being fakes."""

from unittest.mock import MagicMock

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base

from verl_ext.adapters.trainer import batch_fields, test_time

SOLVED_IN = 3
TOLD = ["SkipManager", "Tracking", "ValidationGenerationsLogger", "DapoFilteredRewardTableLogger"]


class Verl(trainer_base.PPOTrainer):
    """verl's loop, of at most five steps."""

    def __init__(self, config):
        self.config, self.trainer_mode, self.steps_per_epoch = config, "sync", 1
        self.global_steps, self.total_training_steps = 0, 5
        self.tokenizer, self.done = MagicMock(), []
        self.tokenizer.decode.return_value = "abc"

    def step(self, metrics, timing_raw):
        self.done.append(("train", self.global_steps))
        made = queue.row("a", "toy", float(self.global_steps >= SOLVED_IN), [1])
        self.queue.rows = {"a_0_0": made | {"responses": torch.tensor([97])}}
        self.ext_batch.clear()
        batch = KVBatchMeta(keys=["a_0_0"], tags=[made["tag"]], partition_id="train")
        return self._compute_advantage(batch, metrics)

    def _compute_advantage(self, batch, metrics):
        return batch

    def _save_checkpoint(self):
        self.done.append(("save", self.global_steps))

    def _validate(self):
        self.done.append(("validate", self.global_steps))
        return {"val": 1.0}

    def nothing(self, *_, **__):
        pass

    on_step_end = on_sample_end = nothing
    _start_profiling = _stop_profiling = _compute_metrics = _shutdown_dump_executor = nothing


class Trainer(test_time.TestTime, Verl):
    pass


@pytest.fixture
def trainer(monkeypatch):
    """Makes one, with verl's frequencies of saving and validating."""
    for name in TOLD:
        monkeypatch.setattr(trainer_base, name, MagicMock())
    fake = queue.Queue({})
    monkeypatch.setattr(batch_fields, "tq", fake)
    monkeypatch.setattr(trainer_base, "tq", MagicMock())

    def made(save=-1, test=-1):
        of_verl = {
            "project_name": "p", "experiment_name": "e", "logger": [], "total_epochs": 100,
            "val_before_train": False, "save_freq": save, "test_freq": test,
        }  # fmt: skip
        settings = {
            "algorithm": {"verl_ext": {"test_time": {}}},
            "trainer": of_verl,
            "global_profiler": {"steps": None},
        }
        result = Trainer(OmegaConf.create(settings))
        result.queue = fake
        return result

    return made


@pytest.mark.parametrize("frequency", [50, SOLVED_IN, 1])
def test_the_step_that_solves_it_is_saved_and_validated_once(trainer, frequency):
    made = trainer(save=frequency, test=frequency)
    made.fit(None)
    assert made.done[-3:] == [("train", 3), ("save", 3), ("validate", 3)]
    assert len(made.done) == (9 if frequency == 1 else 5)


def test_what_is_never_saved_nor_validated_is_not_then_either(trainer):
    made = trainer()
    made.fit(None)
    assert made.done == [("train", step) for step in (1, 2, 3)]


def test_a_solved_run_that_is_started_again_ends_at_once_and_says_why(trainer, capsys):
    made, again = trainer(save=1), trainer(save=1, test=1)
    made.fit(None)
    again.global_steps = 3  # verl's, of the checkpoint
    assert again.ext_restore(made.ext_state()) == []
    capsys.readouterr()
    again.ext_restore(made.ext_state())
    assert "solved by generation 3 before the checkpoint of step 3" in capsys.readouterr().out
    again.fit(None)
    assert again.done == []
    assert "not solved" not in capsys.readouterr().out


def test_a_run_that_did_not_solve_it_goes_on(trainer):
    made, again = trainer(), trainer()
    made.ext_attempts.see([0.0, 0.0])
    again.global_steps = 2
    again.ext_restore(made.ext_state())
    again.fit(None)
    assert again.done == [("train", 3)]
