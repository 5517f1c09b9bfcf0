"""The toy world's reward, which at one call kills a server as a broken machine would."""

import itertools
import os

import ray

from verl_ext.toy.reward import compute_score as toy_score

CALLS = itertools.count(1)
AT_CALL, SERVER, SIGNAL = (f"TEST_KILL_{name}" for name in ("AT_CALL", "SERVER", "SIGNAL"))
POLICY = "server_0_0"


def compute_score(*args, **kwargs):
    if next(CALLS) == int(os.environ[AT_CALL]):
        os.kill(server_process(os.environ[SERVER]), int(os.environ[SIGNAL]))
    return toy_score(*args, **kwargs)


def teacher(key):
    """What a teacher's server is called."""
    return f"server_teacher_0_0_{key}"


def server_process(name):
    """The process of the server of which the name ends like this."""
    names = ray.util.list_named_actors(all_namespaces=True)
    (found,) = [item for item in names if item["name"].endswith(name)]
    server = ray.get_actor(found["name"], namespace=found["namespace"])
    return ray.get(server.__ray_call__.remote(lambda _: os.getpid()))
