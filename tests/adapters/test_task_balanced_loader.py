"""The stream as verl 0.9.1 reads it: one StatefulDataLoader, fetches of gen_batch_size rows."""

import io
from itertools import islice

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from verl_ext.sampling.stream import TaskBalancedStream

TASK_IDS = ["a"] * 10 + ["b"] * 13
BATCH = 4  # 23 rows: 5 batches an epoch


class Indices(torch.utils.data.Dataset):
    def __len__(self):
        return len(TASK_IDS)

    def __getitem__(self, index):
        return index


def loader(fetch, workers=0):
    """With the arguments of verl's ``_init_dataloader``."""
    return StatefulDataLoader(
        dataset=Indices(),
        batch_size=fetch,
        num_workers=workers,
        drop_last=True,
        collate_fn=list,
        sampler=TaskBalancedStream(TASK_IDS, BATCH, seed=1),
    )


def fetched(dataloader):
    """As ``_fetch_one_gen_batch`` does: a new iterator whenever one ends."""
    while True:
        yield from dataloader


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def straight(number):
    stream = TaskBalancedStream(TASK_IDS, BATCH, seed=1)
    return [stream.draw() for _ in range(number)]


@pytest.mark.parametrize("fetch", [1, 2, 4])
def test_no_index_is_lost_between_fetches_and_epochs(fetch):
    fetches = islice(fetched(loader(fetch)), 60 // fetch)
    assert [index for rows in fetches for index in rows] == straight(60)


def test_an_epoch_of_the_loader_is_verls_steps_per_epoch():
    assert len(loader(BATCH)) == len(TASK_IDS) // BATCH


@pytest.mark.parametrize("fetch", [1, 4])
@pytest.mark.parametrize("taken", [0, 4, 12, 20, 24, 40])  # 20 is the end of an epoch
def test_a_loader_resumed_after_a_step_continues_with_the_next_index(fetch, taken):
    first = loader(fetch)
    list(islice(fetched(first), taken // fetch))
    state = saved_and_loaded(first.state_dict())
    second = loader(fetch)
    second.load_state_dict(state)
    rest = islice(fetched(second), 28 // fetch)
    assert [index for rows in rest for index in rows] == straight(taken + 28)[taken:]


def test_replacements_survive_a_restart_where_nothing_reads_ahead():
    first = loader(1)
    reader = fetched(first)
    list(islice(reader, 6))
    replaced = [first.sampler.next_of("a") for _ in range(3)]
    second = loader(1)
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    continued = list(islice(fetched(second), 30))
    assert continued == list(islice(reader, 30))
    assert continued != [[index] for index in straight(36)[6:]]
    assert len(set(replaced)) == 3


@pytest.mark.parametrize("taken", [8, 20, 24])
def test_workers_that_read_ahead_lose_nothing(taken):
    first = loader(1, workers=2)
    list(islice(fetched(first), taken))
    state = saved_and_loaded(first.state_dict())
    second = loader(1, workers=2)
    second.load_state_dict(state)
    rest = [index for rows in islice(fetched(second), 12) for index in rows]
    assert rest == straight(taken + 12)[taken:]
