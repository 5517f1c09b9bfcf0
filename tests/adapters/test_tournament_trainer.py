"""Tournament rewards in the trainer, without Ray: metrics, idle steps, replaced groups."""

from types import SimpleNamespace

import pytest
import torch
import verl.trainer.ppo.v1  # loads the plugin, and the trainers  # noqa: F401
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.rollout.stopping import PARTITION, RolloutStopped
from verl_ext.adapters.rollout.tournament import REPORT, JudgeFailedError
from verl_ext.adapters.trainer import our_workers
from verl_ext.adapters.trainer import tournament as stage

JUDGE = {"base_url": "http://localhost:1/v1", "model": "m", "api_key_env": None}


class Buffer:
    """verl's, as far as it is asked."""

    def __init__(self):
        self.partitions, self.evicted = {}, []

    def _sync_metadata_from_transfer_queue(self):
        pass

    def _evict_terminal_groups(self, global_steps, partition_id, reasons):
        self.evicted.append(reasons)
        return set(), 0, 0, {}


class Base:
    """verl's trainer, as far as it is asked."""

    def __init__(self, config):
        self.config, self.global_steps, self.updates = config, 3, 0
        self.llm_server_manager = SimpleNamespace(get_addresses=lambda: ["a:1", "b:2"])
        self.buffer = self._build_replay_buffer()

    def _build_replay_buffer(self):
        return Buffer()

    def on_init_end(self):
        self.ready = True

    def _compute_advantage(self, batch, metrics):
        return batch

    def _update_actor(self, batch, metrics):
        self.updates += 1
        return batch

    def step(self, metrics, timing_raw):
        return "batch"

    def _compute_metrics(self, batch, metrics, **more):
        metrics["verl"] = 1.0


class Trainer(stage.TournamentRewards, Base):
    """``columns`` stand for the queue."""

    ext_loss_teaches = False

    @property
    def ext_batch(self):
        return SimpleNamespace(
            get=lambda batch, names: {name: self.columns[name] for name in names}
        )


def trainer(section=None, **more):
    section = {"judge": dict(JUDGE)} | more if section is None else section
    group = {"tournament": section} if section else {}
    return Trainer(
        OmegaConf.create(
            {
                "algorithm": {"verl_ext": {"group_reward": group}},
                "actor_rollout_ref": {"rollout": {"agent": {}}},
                "trainer": {"v1": {"sampler": {}}},
                "data": {"train_batch_size": 4},
            }
        )
    )


def batch(*keys):
    return KVBatchMeta(partition_id="train", keys=list(keys), tags=[{} for _ in keys])


def test_a_run_without_a_judge_keeps_verls_workers():
    made = trainer({})
    assert not made.config.actor_rollout_ref.rollout.agent
    made.columns = {}
    made._update_actor(made._compute_advantage(batch("a_0_0"), {}), metrics := {})
    made._compute_metrics(batch("a_0_0"), metrics)
    assert metrics == {"verl": 1.0}
    assert made.updates == 1


def test_responses_are_judged_in_our_workers_and_their_word_stops_the_run():
    made = trainer()
    agent = made.config.actor_rollout_ref.rollout.agent
    assert agent.agent_loop_manager_class == our_workers.MANAGER
    made.buffer.partitions = {PARTITION: {"worker": {"error": "the key is wrong"}}}
    with pytest.raises(RolloutStopped, match="the key is wrong"):
        made.buffer._sync_metadata_from_transfer_queue()


@pytest.mark.parametrize(("advantage", "updates"), [(0.0, 0), (0.5, 1)])
def test_a_step_in_which_nobody_is_told_apart_is_skipped_and_said(capsys, advantage, updates):
    made = trainer()
    rows = torch.nested.as_nested_tensor(
        [torch.zeros(3), torch.tensor([0.0, advantage])], layout=torch.jagged
    )
    made.columns = {"advantages": rows}
    given = batch("a_0_0", "a_1_0")
    metrics = {}
    assert made._update_actor(made._compute_advantage(given, metrics), metrics) is given
    assert made.updates == updates
    assert metrics["verl_ext/skipped_update"] == 1 - updates
    said = "[verl_ext] step 3: all groups void or equal, no update"
    assert (said in capsys.readouterr().out) is not bool(updates)


def test_a_loss_that_teaches_without_an_advantage_is_not_skipped():
    made = trainer()
    made.ext_loss_teaches = True
    rows = torch.nested.as_nested_tensor([torch.zeros(3)], layout=torch.jagged)
    made.columns = {"advantages": rows}
    made._update_actor(made._compute_advantage(batch("a_0_0"), {}), {})
    assert made.updates == 1


def test_metrics_count_each_group_once():
    made = trainer()
    first = {
        "void": False,
        "equal": False,
        "sums": {
            "comparisons": 6, "void": 1, "calls": 12, "seconds": 6.0, "tokens": 1200, "cached": 3,
            "pairs": 5, "order": 10.0, "order_squared": 40.0, "spread": 2.0, "spread_groups": 1,
            "failed/timeout": 2,
        },
    }  # fmt: skip
    second = {"void": True, "equal": True, "sums": {"comparisons": 2, "void": 1, "calls": 4}}
    reports = [first, first, first, second, None]
    made.columns = {"extra_fields": [{REPORT: r} if r else {} for r in reports]}
    # A session in two outputs, of which the last carries the report; a prompt that is not judged.
    keys = batch("a_0_0", "a_0_1", "a_1_0", "b_0_0", "c_0_0")
    made._compute_metrics(keys, metrics := {})
    found = {name.removeprefix("verl_ext/tournament/"): value for name, value in metrics.items()}
    assert found == {
        "verl": 1.0,
        "void_groups": 0.5,
        "equal_groups": 0.5,
        "comparisons": 8.0,
        "void_share": 0.25,
        "calls": 16.0,
        "call_seconds": 6 / 16,
        "tokens_per_call": 75.0,
        "cached": 3 / 16,
        "position_bias": 2.0,
        "spread": 2.0,
        "noise": pytest.approx(2**0.5),  # of (40 / 5 − 2²) / 2
        "failed/timeout": 2 / 16,
    }


def test_replaced_groups_are_counted_by_the_step_and_too_many_stop_the_run():
    made = trainer(on_failure="drop_group", max_dropped=1.5)
    assert made.config.trainer.v1.sampler.sync_refill_failed_groups
    evict = made.buffer._evict_terminal_groups
    for _ in range(2):
        made.step({}, {})
        evict(3, "train", (set(), set(), {"a", "b", "c"}, None))
        evict(3, "train", (set(), {"d"}, set(), None))
        evict(3, "val", (set(), set(), {"e"} | set(range(9)), None))
        evict(3, "train", (set(), set(), {"f", "g", "h"}, None))
        made.columns = {"extra_fields": [{}]}
        made._compute_metrics(batch("a_0_0"), metrics := {})
        assert metrics["verl_ext/tournament/replaced_groups"] == 6
    with pytest.raises(JudgeFailedError, match=r"7 groups dropped in one step, .* allows 6"):
        evict(3, "train", (set(), set(), {"i"}, None))
    assert len(made.buffer.evicted) == 8
    assert "sync_refill_failed_groups" not in trainer().config.trainer.v1.sampler


def test_the_workers_are_told_the_policys_addresses_where_it_is_its_own_judge():
    made = trainer(judge=JUDGE | {"base_url": "policy"})
    made.on_init_end()
    assert made.ready
    section = made.config.algorithm.verl_ext.group_reward.tournament
    assert section.urls == ["http://a:1/v1", "http://b:2/v1"]
    other = trainer()
    other.on_init_end()
    assert "urls" not in other.config.algorithm.verl_ext.group_reward.tournament


def servers(*addresses):
    return SimpleNamespace(get_addresses=lambda: list(addresses))


@pytest.mark.parametrize("shared", [["a:1"], []])  # hybrid_engine=false: none on the trainer's
def test_where_servers_have_devices_of_their_own_those_are_the_judge(shared):
    """The others sleep while the trainer has their devices, and answer nobody."""
    made = trainer(judge=JUDGE | {"base_url": "policy"})
    made.llm_server_manager = servers(*shared)
    made.standalone_server_manager = servers("s:1", "s:2")
    made.on_init_end()
    section = made.config.algorithm.verl_ext.group_reward.tournament
    assert section.urls == ["http://s:1/v1", "http://s:2/v1"]


def test_a_policy_without_servers_is_no_judge():
    made = trainer(judge=JUDGE | {"base_url": "policy"})
    made.llm_server_manager = servers()
    with pytest.raises(JudgeError, match="base_url=policy: the run has no such server"):
        made.on_init_end()
