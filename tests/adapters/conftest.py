"""Fixtures of these tests."""

import pytest
from adapters.judge_servers import Served

from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.child import start
from verl_ext.simulated_judge.faults import Faults
from verl_ext.simulated_judge.settings import ServerSettings
from verl_ext.toy.tokenizer import byte_tokenizer


@pytest.fixture
def serve():
    """Starts judges; keyword arguments are those of the faults and of the server."""
    running = []

    def begin(shares=None, *, annotator=None, faults=None, child=False, **server):
        made = faults or Faults(shares or {})
        settings = ServerSettings(annotator=annotator or Annotator(), faults=made, **server)
        running.append(start(settings) if child else Served(settings))
        return running[-1]

    yield begin
    for judge in running:
        judge.stop()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()
