"""The toy world's reward, which at one call kills a teacher server as a broken machine would."""

import itertools
import os

import ray

from verl_ext.toy.reward import compute_score as toy_score

CALLS = itertools.count(1)
AT_CALL, TEACHER, SIGNAL = (f"TEST_KILL_{name}" for name in ("AT_CALL", "TEACHER", "SIGNAL"))


def compute_score(*args, **kwargs):
    if next(CALLS) == int(os.environ[AT_CALL]):
        os.kill(server_process(os.environ[TEACHER]), int(os.environ[SIGNAL]))
    return toy_score(*args, **kwargs)


def server_process(teacher):
    """verl names a teacher's server after its key."""
    names = ray.util.list_named_actors(all_namespaces=True)
    (found,) = [item for item in names if item["name"].endswith(f"server_teacher_0_0_{teacher}")]
    server = ray.get_actor(found["name"], namespace=found["namespace"])
    return ray.get(server.__ray_call__.remote(lambda _: os.getpid()))
