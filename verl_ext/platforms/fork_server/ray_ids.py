"""For a process that Ray's workers are forked from: leaves the generator of Ray's IDs unused.

A class under ``ray.remote`` draws an ID from it, when its module is imported. All forks would go on
from there alike: tasks of two workers have one ID, and an actor that is given both is ended by Ray
(``Check failed: erased == 1``), or an object is taken for another.
"""

import os
from types import SimpleNamespace

import ray.actor
from ray._raylet import ActorClassID


def _drawn() -> ActorClassID:
    return ActorClassID(os.urandom(ActorClassID.size()))


ray.actor.ActorClassID = SimpleNamespace(from_random=_drawn)  # type: ignore[attr-defined, assignment]
