"""How the workers are asked, and what becomes of their answers."""

import pytest
import ray
import verl  # loads the plugin  # noqa: F401
from adapters.self_teaching.runs import Base, config, group, groups, judged, row
from tensordict import TensorDict
from verl.trainer.ppo.utils import Role

from verl_ext.adapters.teacher import workers
from verl_ext.adapters.trainer import on_logits, self_teaching, teaching


def number(key):
    return int(key.rpartition("_")[2])


def test_ranks_get_equally_many_rows_of_about_as_many_tokens(run):
    rows = {"a_0_0": row("a", "aabb", 1.0)}
    rows |= {f"a_{n}_0": row("a", "x" * n, 0.0) for n in range(1, 6)}
    this = run(rows, ranks=4)()
    (batch,) = this.workers.asked
    assert len(batch.keys) == 8
    _, tokens = this.read("a_3_0")
    assert this.advantages()["a_3_0"] == judged("xxx", tokens)
    assert this.metrics["verl_ext/teacher/total_tokens"] == sum(
        len(v["input_ids"]) for v in this.seen if v["loss_mask"].any()
    )
    sizes = [len(v["input_ids"]) for v in this.seen]
    assert [tag["seq_len"] for tag in batch.tags] == [sizes[number(key)] for key in batch.keys]
    per_rank = [sum(sizes[number(key)] for key in batch.keys[i : i + 2]) for i in range(0, 8, 2)]
    assert max(per_rank) < 2 * min(per_rank)


@pytest.mark.parametrize(
    ("rollout", "actor", "rows"),
    [
        ({}, {}, 1),
        ({"log_prob_use_dynamic_bsz": False, "log_prob_micro_batch_size_per_gpu": 4}, {}, 4),
        (
            {},
            {
                "strategy": "megatron",
                "megatron": {
                    "virtual_pipeline_model_parallel_size": 2,
                    "pipeline_model_parallel_size": 3,
                },
            },
            3,
        ),
    ],
)
def test_rows_divide_as_the_engine_cuts_them(run, rollout, actor, rows):
    this = run(group(), rollout=rollout, actor=actor, ranks=2)()
    (batch,) = this.workers.asked
    assert len(batch.keys) == 2 * rows


@pytest.mark.parametrize("broken", [None, "error"])
def test_the_scratch_partition_is_empty_afterwards_whatever_happens(run, broken):
    this = run(group(), ranks=2, broken=broken)
    if broken:
        with pytest.raises(RuntimeError, match="out of memory"):
            this()
    else:
        this()
    assert not this.fake.scratch
    assert len(this.fake.cleared) == 2


def test_what_is_not_finite_becomes_the_floor_and_is_counted(run):
    this = run(group(), broken="nan", log_prob_floor=-5.0)()
    assert this.advantages()["a_0_0"] == pytest.approx([-4.5] * 3)
    assert this.metrics["verl_ext/teacher/non_finite"] == 1.0


def test_time_and_tokens_are_those_of_all_updates(run, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(self_teaching, "perf_counter", lambda: float(next(clock)))
    rows, keys = groups(3)
    this = run(rows)(keys=keys)
    assert this.metrics["verl_ext/teacher/seconds"] == 3.0
    assert this.metrics["verl_ext/teacher/total_tokens"] == sum(
        len(values["input_ids"]) for values in this.seen if values["loss_mask"].any()
    )


class Pools(Base):
    def __init__(self, config):
        self.use_reference_policy = False
        super().__init__(config)

    def _init_resource_pool_mgr(self):
        self.role_worker_mapping = {Role.ActorRollout: "verl's"}
        self.mapping = {Role.ActorRollout: "global_pool"}

    def _compute_ref_log_prob(self, batch, metrics):
        return "asked"


@pytest.mark.parametrize("source", ["self", "ema", "trust_region"])
@pytest.mark.parametrize("kl", [False, True])
def test_the_reference_worker_is_there_and_asked_where_it_has_a_part(monkeypatch, source, kl):
    monkeypatch.setattr(ray, "remote", lambda cls: cls)
    cls = type("T", (on_logits.OnLogits, teaching.Teaching, Pools), {"base_mode": "sync"})
    made = cls(config(source=source, rate=0.25, actor={"use_kl_loss": kl}))
    made._init_resource_pool_mgr()
    with_reference = source == "trust_region"
    role = Role.ActorRolloutRef if with_reference else Role.ActorRollout
    assert made.role_worker_mapping == {role: workers.TaughtWorker}
    assert made.use_reference_policy == with_reference
    told = made.config.actor_rollout_ref.rollout.custom.verl_ext
    assert told.own_teacher == {"source": source, "rate": 0.25, "log_prob_floor": -20.0}
    assert told.teacher_path is None
    asked = made._compute_ref_log_prob("batch", {})
    assert asked == ("asked" if kl or not with_reference else "batch")


def test_columns_come_back_from_the_queue_as_one_chat_a_row():
    """As TransferQueue hands out what is no tensor."""
    from tensordict import NonTensorStack

    chats = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    data = TensorDict({"raw_prompt": NonTensorStack(*chats)}, batch_size=2)
    assert [list(chat) for chat in data["raw_prompt"]] == chats
