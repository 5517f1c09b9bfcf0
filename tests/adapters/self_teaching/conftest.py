"""The fixture of these tests."""

import pytest
from adapters.self_teaching.runs import Run, Trainer, config


@pytest.fixture
def run(monkeypatch):
    def made(rows, ranks=1, trainer=Trainer, broken=None, rollout=None, **settings):
        settings["rollout"] = {"n": ranks} | (rollout or {})  # so that a mini-batch divides
        this = Run(monkeypatch, config(**settings), rows, ranks, trainer, broken)
        clear, this.seen = this.fake.kv_clear, []

        def remember(keys, partition_id):
            this.seen += [dict(this.fake.scratch[key]) for key in keys]
            clear(keys, partition_id)

        this.fake.kv_clear = remember
        return this

    return made
