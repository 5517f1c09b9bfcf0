"""A setting with a value for each task is held against the tasks of the data, early."""

from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from datasets import Dataset
from omegaconf import OmegaConf

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.trainer.learning import Learning

DATA = Dataset.from_dict({"data_source": ["gsm8k", "math", "gsm8k"], "level": [1, 2, 2]})
KEY = r"algorithm\.verl_ext\.masks\.std_filter\.task_multipliers"


class Base:
    data = DATA

    def __init__(self, config):
        self.config = config

    def _init_dataloader(self):
        self.train_dataset = SimpleNamespace(dataframe=self.data)


class Trainer(Learning, Base):
    pass


def trainer(multipliers, mode="resample", **ours):
    masks = {"std_filter": {"mode": mode, "task_multipliers": multipliers}}
    return Trainer(OmegaConf.create({"algorithm": {"verl_ext": {"masks": masks, **ours}}}))


@pytest.mark.parametrize("mode", ["resample", "mask"])
@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"nonsense": 2.0}, rf"^{KEY}: unknown 'nonsense', did you mean "),
        (
            {"gsm8k": 1.0, "math": 2.0, "gsm8l": 9.0},
            rf"^{KEY}: unknown 'gsm8l', did you mean 'gsm8k'",
        ),
        ({"gsm8k": 2.0}, rf"math lack a value.* Add: '{KEY}={{gsm8k: 2\.0, math: 1\.0}}'"),
    ],
)
def test_multipliers_of_other_tasks_than_the_datas_are_refused(multipliers, message, mode):
    with pytest.raises(SettingsError, match=message):
        trainer(multipliers, mode)._init_dataloader()


@pytest.mark.parametrize("multipliers", [None, {}, {"gsm8k": 1.0, "math": 2.0}])
def test_multipliers_of_the_datas_tasks_pass(multipliers):
    trainer(multipliers)._init_dataloader()


def test_the_tasks_are_those_of_the_task_key():
    trainer({1: 2.0, 2: 1.0}, task_key="level")._init_dataloader()
    with pytest.raises(SettingsError, match="did you mean '1'"):
        trainer({1: 2.0, 2: 1.0, 11: 1.0}, task_key="level")._init_dataloader()
    with pytest.raises(SettingsError, match="1, 2 lack a value"):
        trainer({"1": 2.0, "2": 1.0}, task_key="level")._init_dataloader()


def test_data_that_cannot_be_looked_through_are_left_to_the_batches(monkeypatch):
    monkeypatch.setattr(Base, "data", None)
    trainer({"nonsense": 2.0})._init_dataloader()
