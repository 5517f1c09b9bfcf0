"""A worker or server that is gone stops the run; one that is busy does not."""

from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from verl_ext.adapters.engine_trouble import engine_trouble
from verl_ext.adapters.trainer import alive


class Handle:
    """Ray's: its process answers, is busy, is gone, or has an engine that is dead."""

    def __init__(self, state="ready"):
        self.state, self.asked = state, 0
        self.__ray_ready__ = SimpleNamespace(remote=self._ask)
        self.__ray_call__ = SimpleNamespace(remote=self._call)

    def _ask(self):
        self.asked += 1
        return self

    def _call(self, question):
        assert question is engine_trouble
        return self._ask()

    def answer(self):
        if self.state == "gone":
            raise ActorDiedError()
        if self.state == "busy":
            raise GetTimeoutError()
        return "its engine is dead" if self.state == "no engine" else None


@pytest.fixture
def waiting(monkeypatch):
    """A trainer that waits: ``look(seconds)`` lets time pass and looks into the queue."""
    monkeypatch.setattr(alive.ray, "get", lambda handle, timeout: handle.answer())
    monkeypatch.setattr(
        alive.ray, "wait", lambda refs, timeout: ([r for r in refs if r.state != "busy"], [])
    )

    def made(sample=None, **handles):
        now, looks = [0.0], []
        buffer = SimpleNamespace(
            _sync_metadata_from_transfer_queue=lambda: looks.append(now[0]), sample=sample
        )
        alive.watch(
            buffer, lambda: ((name, h.__ray_ready__.remote) for name, h in handles.items()),
            lambda: now[0],
        )  # fmt: skip

        def look(seconds):
            now[0] += seconds
            buffer._sync_metadata_from_transfer_queue()
            return len(looks)

        look.sample = buffer.sample
        return look

    return made


def test_they_are_asked_now_and_then_and_verls_look_is_always_done(waiting):
    worker = Handle()
    look = waiting(worker=worker)
    assert [look(1) for _ in range(11)] == list(range(1, 12))
    assert worker.asked == 2


@pytest.mark.parametrize(
    ("state", "said"), [("gone", "The actor died"), ("no engine", "its engine is dead")]
)
def test_one_that_is_gone_stops_the_run_by_name(waiting, state, said):
    there, gone = Handle(), Handle()
    look = waiting(there=there, other=gone)
    look(alive.EVERY_S)
    gone.state = state
    with pytest.raises(alive.WorkerGoneError, match=rf"(?s)other is gone.*{said}.*Out of memory\?"):
        look(alive.EVERY_S)


def test_one_that_is_busy_is_neither_asked_again_nor_given_up(waiting):
    worker = Handle()
    look = waiting(worker=worker)
    look(alive.EVERY_S)
    worker.state = "busy"
    for _ in range(5):
        look(alive.EVERY_S)
    assert worker.asked == 1
    worker.state = "gone"
    with pytest.raises(alive.WorkerGoneError):
        look(alive.EVERY_S)


def test_what_verl_makes_of_it_is_replaced_by_the_cause(waiting):
    def empty(*arguments, **named):
        raise RuntimeError("selected terminal groups with no materializable trajectories")

    server = Handle("no engine")
    with pytest.raises(alive.WorkerGoneError, match="server is gone"):
        waiting(empty, worker=Handle("busy"), server=server).sample(partition_id="train")
    with pytest.raises(RuntimeError, match="no materializable trajectories"):
        waiting(empty, worker=Handle("busy"), server=Handle()).sample(partition_id="train")


def test_a_batch_is_handed_on(waiting):
    look = waiting(lambda *arguments, **named: (arguments, named), worker=Handle("gone"))
    assert look.sample(1, partition_id="train") == ((1,), {"partition_id": "train"})


def test_the_trainer_knows_whom_to_ask():
    handles = {name: Handle() for name in "abcde"}
    trainer = SimpleNamespace(
        agent_loop_manager=SimpleNamespace(agent_loop_workers=[handles["a"], handles["b"]]),
        reward_loop_manager=SimpleNamespace(reward_loop_workers=[handles["c"]]),
        llm_server_manager=SimpleNamespace(server_handles=[handles["d"]]),
        standalone_server_manager=SimpleNamespace(server_handles=[handles["e"]]),
    )
    asked = {name: ask() for name, ask in alive.Alive._ext_asked(trainer)}
    assert asked == {
        "rollout worker 0": handles["a"],
        "rollout worker 1": handles["b"],
        "reward worker 0": handles["c"],
        "policy server 0": handles["d"],
        "policy server 1": handles["e"],
    }
    bare = SimpleNamespace(agent_loop_manager=SimpleNamespace(), llm_server_manager=None)
    assert list(alive.Alive._ext_asked(bare)) == []


def test_an_engine_says_whether_it_is_dead():
    def server(**engine):
        return SimpleNamespace(engine=SimpleNamespace(**engine))

    assert engine_trouble(server(errored=True)) == "its engine is dead"
    assert engine_trouble(server(errored=False)) is None
    assert engine_trouble(server()) is None
    assert engine_trouble(SimpleNamespace()) is None


def test_rays_errors_are_told_apart():
    """What a worker raises is no sign that it is gone."""
    assert not issubclass(RayTaskError, alive.RayActorError)
    assert issubclass(ActorDiedError, alive.RayActorError)
