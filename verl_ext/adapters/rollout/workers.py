"""verl's agent-loop worker and manager with our concerns; each does nothing unless asked for.

Named in the configuration and imported by that name alone: a process of Ray's imports this module
first, and verl's, on the way, bring the trainers.
"""

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from verl_ext.adapters.rollout.reference_probability import ReferenceGuard
from verl_ext.adapters.rollout.seeds import SeededPrompts, SeededSessions
from verl_ext.adapters.rollout.teacher_server import TeacherGuard
from verl_ext.adapters.rollout.tournament import TournamentGuard


class RolloutWorker(
    TournamentGuard,
    ReferenceGuard,
    TeacherGuard,
    SeededSessions,
    AgentLoopWorkerTQ.__ray_actor_class__,  # type: ignore[misc,name-defined]
):
    """Runs the sessions of a prompt."""

    # Ray copies inherited methods into the actor's class, and verl's __init__ does not survive
    # that: its ``super()`` names a class that ``ray.remote`` hides from look-up by name.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class RolloutManager(SeededPrompts, AgentLoopManagerTQ):
    """Starts such workers, and hands them the prompts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(RolloutWorker)
