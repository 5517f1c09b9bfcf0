"""One question until it is solved, around verl's own advantage stage: no Ray."""

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.trainer import batch_fields, test_time
from verl_ext.toy.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


class Base(queue.Base):
    def __init__(self, config):
        super().__init__(config)
        self.total_training_steps, self.tokenizer = 4, TOKENIZER

    def _compute_advantage(self, batch, metrics):
        return batch

    def _init_dataloader(self):
        self.train_dataset = self.config.questions


class Trainer(test_time.TestTime, Base):
    pass


def trainer(questions=1, **section):
    config = {
        "algorithm": {"verl_ext": {"test_time": section}},
        "questions": [1] * questions,
        "trainer": {"save_freq": -1, "test_freq": -1},
    }
    return Trainer(OmegaConf.create(config))


def row(text, score):
    ids = TOKENIZER(text + "<|im_end|>")["input_ids"]
    made = queue.row("a", "toy", score, [1] * len(ids))
    return made | {"responses": torch.tensor(ids)}


def step(monkeypatch, made, rows):
    fake = queue.Queue(rows)
    monkeypatch.setattr(batch_fields, "tq", fake)
    tags = [values["tag"] for values in rows.values()]
    metrics = {}
    made.ext_batch.clear()
    batch = KVBatchMeta(keys=list(rows), tags=tags, partition_id="train")
    assert made._compute_advantage(batch, metrics) is batch
    return metrics


FAILURES = {"a_0_0": row("x", 0.0), "a_1_0": row("y", 0.0)}


def test_the_step_of_the_first_success_is_the_last_one(monkeypatch, capsys):
    made = trainer()
    metrics = step(monkeypatch, made, FAILURES)
    assert metrics == {"verl_ext/test_time/generations": 2.0, "verl_ext/test_time/solved": 0.0}
    assert made.total_training_steps == 4
    made.global_steps = 2
    solved = {"a_0_0": row("z", 0.0), "a_1_0": row("abc", 1.0), "a_2_0": row("abc", 1.0)}
    solved["pad0_0_0"] = queue.padding(solved["a_1_0"])
    metrics = step(monkeypatch, made, solved)
    assert metrics == {"verl_ext/test_time/generations": 4.0, "verl_ext/test_time/solved": 1.0}
    assert made.total_training_steps == 2
    assert "solved by generation 4, in step 2: abc\n" in capsys.readouterr().out


def test_the_last_step_says_that_it_was_not_solved(monkeypatch, capsys):
    made = trainer(success_threshold=2.0)
    made.global_steps = 4
    step(monkeypatch, made, {"a_0_0": row("abc", 1.0)})
    assert "not solved in 1 generations" in capsys.readouterr().out


def test_a_resumed_run_goes_on_counting(monkeypatch):
    made, other = trainer(), trainer()
    step(monkeypatch, made, FAILURES)
    assert other.ext_restore(made.ext_state()) == []
    assert step(monkeypatch, other, FAILURES)["verl_ext/test_time/generations"] == 4.0
    assert trainer().ext_restore({}) == ["the count of attempts"]


def test_more_than_one_question_is_refused():
    with pytest.raises(SettingsError, match=r"has 3\. Add: data.train_max_samples=1"):
        trainer(questions=3)._init_dataloader()
    trainer()._init_dataloader()


def test_without_the_section_nothing_happens(monkeypatch):
    made = Trainer(OmegaConf.create({"algorithm": {}, "questions": [1, 2]}))
    made._init_dataloader()
    assert step(monkeypatch, made, FAILURES) == {}
    assert made.ext_state() == {}
    assert made.ext_restore({}) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algorithm.verl_ext.test_time.success_threshold=high",), r"test_time: "),
        (
            (
                "trainer.v1.trainer_mode=verl_ext.colocate_async",
                "algorithm.verl_ext.deterministic=false",
            ),
            "one step after the other",
        ),
        (("trainer.v1.trainer_mode=sync",), r"verl_ext\.sync"),
        (("algorithm.filter_groups.enable=true",), r"filter_groups\.enable=false"),
    ],
)
def test_what_makes_no_sense_is_refused(verl_config, overrides, message):
    with pytest.raises(SettingsError, match=message):
        driver_check.check(verl_config("+paper=sdpo_test_time", "+scale=cpu", *overrides))


def test_attempts_count_in_the_order_in_which_they_were_begun(monkeypatch):
    """A short success is done before the failures that were begun first."""
    done = {"a_10_0": row("abc", 1.0), "a_2_0": row("a wrong one", 0.0), "a_0_0": row("x", 0.0)}
    assert step(monkeypatch, trainer(), done)["verl_ext/test_time/generations"] == 3.0
