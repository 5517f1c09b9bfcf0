"""A worker that is gone stops the run; one that is busy does not."""

from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from ray.exceptions import ActorDiedError, RayTaskError

from verl_ext.adapters.trainer import alive


class Worker:
    """A Ray handle: it answers, is busy, or is gone."""

    def __init__(self, state="ready"):
        self.state, self.asked = state, 0
        self.__ray_ready__ = SimpleNamespace(remote=self._ask)

    def _ask(self):
        self.asked += 1
        return self


@pytest.fixture
def waiting(monkeypatch):
    """A trainer that waits: ``look(seconds)`` lets time pass and looks into the queue."""

    def get(worker):
        if worker.state == "gone":
            raise ActorDiedError()

    monkeypatch.setattr(alive.ray, "get", get)
    monkeypatch.setattr(
        alive.ray, "wait", lambda refs, timeout: ([r for r in refs if r.state != "busy"], [])
    )

    def made(workers):
        now, looks = [0.0], []
        buffer = SimpleNamespace(_sync_metadata_from_transfer_queue=lambda: looks.append(now[0]))
        alive.watch(buffer, lambda: workers, lambda: now[0])

        def look(seconds):
            now[0] += seconds
            buffer._sync_metadata_from_transfer_queue()
            return len(looks)

        return look

    return made


def test_workers_are_asked_now_and_then_and_verls_look_is_always_done(waiting):
    worker = Worker()
    look = waiting({"rollout worker 0": worker})
    assert [look(1) for _ in range(11)] == list(range(1, 12))
    assert worker.asked == 2


def test_one_that_is_gone_stops_the_run_by_name(waiting):
    there, gone = Worker(), Worker()
    look = waiting({"rollout worker 0": there, "reward worker 1": gone})
    look(alive.EVERY_S)
    gone.state = "gone"
    with pytest.raises(alive.WorkerGoneError, match=r"reward worker 1 is gone.*Out of memory\?"):
        look(alive.EVERY_S)


def test_one_that_is_busy_is_neither_asked_again_nor_given_up(waiting):
    worker = Worker()
    look = waiting({"rollout worker 0": worker})
    look(alive.EVERY_S)
    worker.state = "busy"
    for _ in range(5):
        look(alive.EVERY_S)
    assert worker.asked == 1
    worker.state = "gone"
    with pytest.raises(alive.WorkerGoneError):
        look(alive.EVERY_S)


def test_the_trainer_knows_its_workers_by_name():
    trainer = SimpleNamespace(
        agent_loop_manager=SimpleNamespace(agent_loop_workers=["a", "b"]),
        reward_loop_manager=SimpleNamespace(reward_loop_workers=["c"]),
    )
    named = alive.Alive._ext_workers(trainer)
    assert named == {"rollout worker 0": "a", "rollout worker 1": "b", "reward worker 0": "c"}
    trainer.agent_loop_manager, trainer.reward_loop_manager = SimpleNamespace(), None
    assert alive.Alive._ext_workers(trainer) == {}


def test_rays_errors_are_told_apart():
    """What a worker raises is no sign that it is gone."""
    assert not issubclass(RayTaskError, alive.RayActorError)
    assert issubclass(ActorDiedError, alive.RayActorError)
