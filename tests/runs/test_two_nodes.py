"""One run on two nodes: two raylets of one cluster, on this machine."""

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors
from runs.launch import train


@pytest.fixture
def cluster():
    node = {"num_cpus": 32, "num_gpus": 1, "include_dashboard": True}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(num_cpus=32, num_gpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.run
def test_a_worker_of_the_trainer_is_on_each_of_two_nodes(tmp_path, cluster):
    _, metrics = train(
        tmp_path,
        "+paper=nsr",  # a mask of ours: the plugin is at work in the trainer and in the workers
        "+scale=cpu",
        f"ray_kwargs.ray_init.address={cluster.address}",
        "ray_kwargs.ray_init.num_cpus=null",
        "ray_kwargs.ray_init.num_gpus=null",
        "trainer.nnodes=2",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )
    assert set(metrics) == {1, 2}
    for step in metrics.values():
        assert step["training/rollout_probs_diff_max"] < 1e-4
        assert step["actor/grad_norm"] > 0
    ray.init(address=cluster.address, logging_level="error")
    actors = list_actors(limit=1000)
    homes = {
        name: {actor.node_id for actor in actors if name in actor.class_name}
        for name in ("WorkerDict", "vLLMHttpServer")
    }
    assert {name: len(nodes) for name, nodes in homes.items()} == dict.fromkeys(homes, 2)
