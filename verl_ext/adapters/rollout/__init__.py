"""Agent-loop workers and managers of ours, where a run's teacher is a server.

A class for each combination, by hand: Ray finds an actor's class again by its name, and a class
made on the fly has none. Seeds alone are in ``trainer/deterministic.py``.
"""

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from verl_ext.adapters.rollout.teacher_server import TeacherGuard
from verl_ext.adapters.trainer.deterministic import SeededManager, SeededWorker


class TaughtRolloutWorker(TeacherGuard, AgentLoopWorkerTQ.__ray_actor_class__):  # type: ignore[misc,name-defined]
    """Asks the teachers' servers, and says what came of it."""

    # As in SeededWorker: without it Ray copies verl's, which does not survive that.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class SeededTaughtRolloutWorker(TeacherGuard, SeededWorker):
    """The same, with a seed for every request to the policy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class TaughtManager(AgentLoopManagerTQ):
    """Starts the workers of a run with teacher servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.agent_loop_workers_class = ray.remote(TaughtRolloutWorker)


class SeededTaughtManager(SeededManager):
    """Starts those of a run with teacher servers that can be repeated bit for bit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SeededTaughtRolloutWorker)
