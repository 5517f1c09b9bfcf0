"""Data, settings and buffers that cannot be balanced."""

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.task_balance.world import TASKS, Data, Trainer, World, balance
from verl.utils.dataset.rl_dataset import collate_fn

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.task_balance import TaskBalance
from verl_ext.adapters.task_data import task_ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_key": "data_sauce"}, r"task_key: no column 'data_sauce'.*'data_source'.*prompt"),
        ({"weights": {"math": 1.0}}, r"sampler\.task_balanced: weights: no weight for 'code'"),
        ({"weights": "even"}, r"sampler\.task_balanced: weights must be 'uniform'"),
        ({"batch_size": 65}, r"sampler\.task_balanced: batch_size 65 is more than the 64 prompts"),
        ({"tasks": [*TASKS, None]}, r"row 64 holds None"),
        ({"tasks": [*TASKS, float("nan")]}, r"row 64 holds nan"),
        ({"tasks": [["math"]] * 20}, r"row 0 holds \['math'\]"),
    ],
)
def test_what_cannot_be_balanced_is_refused_with_its_key(changes, message):
    with pytest.raises(SettingsError, match=message):
        balance(**changes)


def test_a_data_set_without_a_frame_is_refused():
    data = torch.utils.data.TensorDataset(torch.zeros(20))
    with pytest.raises(SettingsError, match=r"TensorDataset has no attribute dataframe"):
        TaskBalance(data, weights="uniform", task_key="x", batch_size=4, seed=None, shuffle=True)


@pytest.mark.parametrize("library", ["datasets", "pandas"])
def test_columns_of_both_libraries_become_plain_values(library):
    columns = {"task": [1, 2] * 10}
    data = Data()
    if library == "pandas":
        data.dataframe = pytest.importorskip("pandas").DataFrame(columns)
    else:  # verl's own; filtering leaves the rows and a list of indices
        frame = pytest.importorskip("datasets").Dataset.from_dict({"task": [3, 1, 2, *[1, 2] * 9]})
        data.dataframe = frame.select(range(1, 21))
    ids = task_ids(data, "task")
    assert ids == columns["task"]
    assert {type(task) for task in ids} == {int}


def test_fetches_that_do_not_divide_the_batch_and_workers_with_refills_are_refused():
    arguments = {"collate_fn": collate_fn, "refills": True}
    with pytest.raises(SettingsError, match=r"data\.gen_batch_size=3 must divide"):
        balance().dataloader(batch_size=3, num_workers=0, **arguments)
    with pytest.raises(SettingsError, match=r"data\.dataloader_num_workers=2: set it to 0"):
        balance().dataloader(batch_size=1, num_workers=2, **arguments)
    balance().dataloader(batch_size=1, num_workers=2, collate_fn=collate_fn, refills=False)


def test_a_finished_prompt_that_was_not_drawn_here_is_refused(use):
    world = use(World(0))
    trainer = Trainer(world, "sync")
    tag = {"is_prompt": True, "status": "finished", "global_steps": 1}
    world.tags["train"]["stranger"] = tag
    with pytest.raises(RuntimeError, match=r"1 finished prompts were not drawn"):
        trainer.sample()


def test_a_buffer_without_verls_methods_is_refused():
    class Own:
        def sample(self):
            """Its own rules."""

    with pytest.raises(SettingsError, match=r"custom_sampler: Own has no _sampleable_terminal"):
        balance().watch(Own())
