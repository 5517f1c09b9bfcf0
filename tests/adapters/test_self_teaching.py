"""A policy that teaches itself, around verl's own stages, on a queue in memory: no Ray."""

import math
from types import SimpleNamespace

import pytest
import ray
import torch
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher import support, workers
from verl_ext.adapters.teacher.loss import TAUGHT
from verl_ext.adapters.teacher.rendering import Renderer
from verl_ext.adapters.trainer import batch_fields, learning, on_logits, scratch, teaching
from verl_ext.toy.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
QUESTION = "f3(ab)="
STUDENT = -0.5


class Queue(queue.Queue):
    """Partitions beside the training one; says when one is cleared."""

    def __init__(self, rows):
        super().__init__(rows)
        self.train, self.scratch, self.cleared = rows, {}, []

    def kv_batch_get(self, keys, partition_id, select_fields):
        self.rows = self.train if partition_id == "train" else self.scratch
        return super().kv_batch_get(keys, partition_id, select_fields)

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        self.rows = self.train if partition_id == "train" else self.scratch
        if tags is not None:
            self.rows |= {key: {"tag": tag} for key, tag in zip(keys, tags, strict=True)}
        return super().kv_batch_put(keys, partition_id, fields, tags)

    def kv_clear(self, keys, partition_id):
        assert partition_id == scratch.PARTITION
        self.cleared += keys
        for key in keys:
            del self.scratch[key]


class Workers:
    """Says of each token minus a tenth of its id, and a thousandth of the prompt's length."""

    def __init__(self, fake, ranks=1):
        self._dispatch_info = {"actor": list(range(ranks))}
        self.fake, self.asked, self.averaged, self.broken = fake, [], 0, None
        self.asked_on_support = []

    def ext_teacher_log_prob(self, batch):
        self.asked.append(batch)
        if self.broken == "error":
            raise RuntimeError("out of memory")
        for key in batch.keys:
            row = self.fake.scratch[key]
            ids = row["input_ids"].float()
            said = -ids.roll(-1) / 10 - len(row["prompts"]) / 1000
            if self.broken == "nan":
                said = torch.full_like(said, math.nan)
            row[workers.TEACHER_LOG_PROBS] = said

    def ext_teacher_on_support(self, batch):
        self.asked_on_support.append(batch)
        for key in batch.keys:
            row = self.fake.train[key]
            assert set(support.FIELDS) <= set(row) | {"input_ids", "position_ids"}
            row[support.REPLACED] = torch.tensor([2 if self.broken == "nan" else 0])

    def ext_update_average(self):
        self.averaged += 1
        return [(3.0, 50.0), (1.0, 50.0)]


class Base(queue.Base):
    def __init__(self, config):
        super().__init__(config)
        self.tokenizer, self.processor, self.grad_norm = TOKENIZER, None, 1.0

    def _update_actor(self, batch, metrics):
        metrics["actor/grad_norm"] = self.grad_norm
        for name in ("loss", "value", "student_tail"):  # as the loss reports them
            metrics[f"actor/verl_ext/divergence/{name}"] = 0.25
        super()._update_actor(batch, metrics)
        return batch


class Trainer(learning.Learning, on_logits.OnLogits, teaching.Teaching, Base):
    base_mode = "sync"


def render(messages):
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return TOKENIZER(text)["input_ids"]


def row(uid, text, reward, mask=None, feedback=None, chat=None, **more):
    """A row as the agent loops leave it."""
    chat = chat or [{"role": "user", "content": QUESTION}]
    ids = TOKENIZER(text + "<|im_end|>")["input_ids"]
    extra = {} if feedback is None else {"reward_extra_info": {"feedback": feedback}}
    return (
        queue.row(uid, "toy", reward, mask or [1] * len(ids))
        | {
            "responses": torch.tensor(ids),
            "prompts": torch.tensor(render(chat)),
            "raw_prompt": chat,
            "extra_fields": extra,
            "old_log_probs": torch.full((len(ids),), STUDENT),
        }
        | more
    )


def config(
    source="self", hints=None, rollout=None, actor=None, task=None, divergence=None, **teacher
):
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "verl_ext.sdpo",
                "use_kl_in_reward": False,
                "gamma": 1.0,
                "lam": 1.0,
                "verl_ext": {
                    "advantage": task or {},
                    "divergence": divergence,
                    "teacher": {"source": source, "max_prompt_length": 400, "hints": hints or {}}
                    | teacher,
                },
            },
            "data": {},
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 1, "strategy": "fsdp2", "use_kl_loss": False}
                | (actor or {}),
                "rollout": {"n": 1, "temperature": 0.7, "log_prob_use_dynamic_bsz": True}
                | (rollout or {}),
            },
        }
    )


class Run:
    """One batch through advantage and update."""

    def __init__(self, monkeypatch, made, rows, ranks=1, trainer=Trainer, broken=None):
        self.fake = Queue(rows)
        for module in (queue.trainer_base, batch_fields, scratch):
            monkeypatch.setattr(module, "tq", self.fake)
        self.trainer, self.metrics = trainer(made), {}
        self.workers = self.trainer.actor_rollout_wg = Workers(self.fake, ranks)
        self.workers.broken = broken
        builder = create_continuous_token_builder(TOKENIZER)
        monkeypatch.setattr(Renderer, "_builder", builder)
        tags = [values["tag"] for values in rows.values()]
        self.batch = KVBatchMeta(keys=list(rows), tags=tags, partition_id="train")

    def __call__(self, grad_norm=1.0):
        self.trainer.grad_norm = grad_norm
        batch = self.trainer._compute_advantage(self.batch, self.metrics)
        self.trainer._update_actor(batch, self.metrics)
        return self

    def advantages(self):
        return {key: values["advantages"].tolist() for key, values in self.fake.train.items()}

    def read(self, key):
        """(teacher prompt as text, its number of tokens) of what was asked about a response."""
        response = self.fake.train[key]["responses"].tolist()
        for values in self.seen:
            if values["responses"].tolist() == response and values["loss_mask"].any():
                prompt = values["prompts"].tolist()
                assert values["input_ids"].tolist() == prompt + response
                assert values["position_ids"].tolist() == list(range(len(prompt) + len(response)))
                return TOKENIZER.decode(prompt), len(prompt)
        raise AssertionError(f"nothing was asked about {key}")


@pytest.fixture
def run(monkeypatch):
    def made(rows, ranks=1, trainer=Trainer, broken=None, rollout=None, **settings):
        settings["rollout"] = {"n": ranks} | (rollout or {})  # so that a mini-batch divides
        this = Run(monkeypatch, config(**settings), rows, ranks, trainer, broken)
        clear, this.seen = this.fake.kv_clear, []

        def remember(keys, partition_id):
            this.seen += [dict(this.fake.scratch[key]) for key in keys]
            clear(keys, partition_id)

        this.fake.kv_clear = remember
        return this

    return made


def group(**first):
    """A failure and a success of one prompt, and a lone failure of another."""
    return {
        "a_0_0": row("a", "xy", 0.0, **first),
        "a_1_0": row("a", "aabb", 1.0),
        "b_0_0": row("b", "zzz", 0.0),
    }


def judged(response, prompt_tokens, coef=1.0):
    ids = TOKENIZER(response + "<|im_end|>")["input_ids"]
    return pytest.approx([coef * (-i / 10 - prompt_tokens / 1000 - STUDENT) for i in ids], abs=1e-5)


def test_a_failure_is_judged_by_the_policy_that_has_seen_a_siblings_success(run):
    this = run(group())()
    prompt, tokens = this.read("a_0_0")
    assert QUESTION in prompt
    assert "aabb" in prompt
    assert prompt.count("<|im_end|>") == 1  # the solution comes without its own
    assert this.advantages() == {
        "a_0_0": judged("xy", tokens), "a_1_0": [0.0] * 5, "b_0_0": [0.0] * 4,
    }  # fmt: skip
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/prompt/own_success"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/prompt/no_success_no_feedback"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/non_finite"] == 0.0
    assert this.metrics["verl_ext/teacher/total_tokens"] == tokens + 3
    assert this.metrics["verl_ext/teacher/seconds"] >= 0
    (batch,) = this.workers.asked
    assert batch.extra_info["temperature"] == 0.7
    assert batch.partition_id == "verl_ext_teacher"


def test_alone_the_teacher_teaches_only_rows_that_it_judges(run):
    """The others leave the loss and its denominator, and are not computed."""
    this = run(group())()
    assert this.trainer.updated == [["a_0_0"]]
    masks = {key: values["loss_mask"].tolist() for key, values in this.fake.train.items()}
    assert masks == {"a_0_0": [1, 1, 1], "a_1_0": [0] * 5, "b_0_0": [0] * 4}
    gap = [STUDENT - a - STUDENT for a in this.advantages()["a_0_0"]]
    assert this.metrics["verl_ext/teacher/reverse_kl"] == pytest.approx(sum(gap) / 3, abs=1e-5)


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_beside_a_task_every_row_stays_and_the_others_have_the_tasks_advantage(run, estimator):
    task = {"task_estimator": estimator, "task_weight": 0.5, "coef": 2.0}
    this = run(group(), task=task)()
    alone = run(group(), task=task | {"coef": 0.0})()  # the teacher is not asked
    assert not alone.workers.asked
    _, tokens = this.read("a_0_0")
    both, of_task = this.advantages(), alone.advantages()
    assert both["a_1_0"] == of_task["a_1_0"] != [0.0] * 5
    assert both["b_0_0"] == of_task["b_0_0"]
    wanted = judged("xy", tokens, 2.0).expected
    assert both["a_0_0"] == pytest.approx(
        [a + b for a, b in zip(of_task["a_0_0"], wanted, strict=True)], abs=1e-5
    )
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]


@pytest.mark.parametrize(("task", "updates"), [({}, 0), ({"task_estimator": "grpo"}, 1)])
def test_without_any_teacher_prompt_the_task_alone_teaches_or_nothing_does(
    run, capsys, task, updates
):
    rows = {"a_0_0": row("a", "xy", 0.0), "b_0_0": row("b", "zz", 1.0)}
    this = run(rows, task=task)()
    assert not this.workers.asked
    assert len(this.trainer.updated) == updates
    said = capsys.readouterr().out
    assert "no row has a teacher prompt (no_success_no_feedback 1, own_success 1)" in said
    assert ("no update" in said) == (updates == 0)
    assert this.metrics["verl_ext/teacher/reverse_kl"] == 0.0
    if not updates:
        assert this.metrics["verl_ext/skipped_update"] == 1.0


@pytest.mark.parametrize(
    "extra",
    [
        {"reward_extra_info": {"feedback": "Letter 1 is wrong."}},
        {"feedback": "Letter 1 is wrong."},
        {"reward_extra_info": {"acc": 0.0}, "feedback": "Letter 1 is wrong."},
    ],
)
def test_feedback_comes_from_the_reward_function_or_the_agent_loop(run, extra):
    rows = {"a_0_0": row("a", "xy", 0.0) | {"extra_fields": extra}}
    prompt, _ = run(rows)().read("a_0_0")
    assert "Letter 1 is wrong." in prompt


def test_the_rules_of_hints_and_the_words_are_the_runs(run):
    rows = group(feedback="Too short.")
    hints = {"include_solution": False, "include_attempt": True}
    this = run(rows, hints=hints, texts={"feedback": "It says <{feedback}>"})()
    prompt, _ = this.read("a_0_0")
    assert "It says <Too short.>" in prompt
    assert "xy" in prompt
    assert "aabb" not in prompt


def test_a_tools_answer_is_read_and_not_judged(run):
    this = run(group(mask=[1, 0, 1]))()
    _, tokens = this.read("a_0_0")
    (asked,) = [v for v in this.seen if v["loss_mask"].any()]
    assert asked["input_ids"].tolist()[-3:] == this.fake.train["a_0_0"]["responses"].tolist()
    assert asked["loss_mask"].tolist() == [1, 0, 1]
    first, _, last = judged("xy", tokens).expected
    assert this.advantages()["a_0_0"] == pytest.approx([first, 0.0, last], abs=1e-5)


def test_padding_rows_are_nobodys_siblings_and_have_no_share(run):
    rows = group()
    rows["pad0_0_0"] = queue.padding(rows["a_1_0"]) | {
        "responses": torch.tensor([258]), "prompts": torch.tensor([258] * 3),
    }  # fmt: skip
    this = run(rows)()
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.trainer.updated == [["a_0_0"]]


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


def test_an_average_moves_once_after_an_update(run):
    this = run(group(), source="ema")()
    assert this.workers.averaged == 1
    assert this.metrics["verl_ext/teacher/ema_distance"] == pytest.approx(0.2)
    assert not any("ema" in name for name in run(group())().metrics)


@pytest.mark.parametrize("grad_norm", [math.nan, math.inf])
def test_an_average_stays_where_the_optimizer_stood_still(run, capsys, grad_norm):
    this = run(group(), source="ema")(grad_norm)
    assert this.workers.averaged == 0
    assert "the averaged teacher stays as it is" in capsys.readouterr().out


def test_an_average_stays_where_the_update_was_skipped(run):
    this = run({"a_0_0": row("a", "xy", 0.0)}, source="ema")()
    assert this.trainer.updated == []
    assert this.workers.averaged == 0


def test_a_session_of_several_outputs_is_refused(run):
    rows = group()
    rows["b_0_1"] = row("b", "zz", 0.0)
    with pytest.raises(SettingsError, match="several outputs"):
        run(rows)()


def test_a_prompt_that_is_not_the_chat_templates_is_refused(run):
    other = torch.tensor(render([{"role": "user", "content": "Be brief. " + QUESTION}]))
    with pytest.raises(SettingsError, match="continues another prompt"):
        run(group(prompts=other))()


def test_the_runs_tools_stand_in_the_teachers_prompt_where_they_stand_in_the_policys(
    run, monkeypatch
):
    class Builder:
        def build_initial_tokens(self, messages, tools=None):
            return [len(tools or ()), *render(messages)]

    chat = [{"role": "user", "content": QUESTION}]
    this = run(group(prompts=torch.tensor([1, *render(chat)])))
    monkeypatch.setattr(Renderer, "_builder", Builder())
    monkeypatch.setattr(Renderer, "_tools", [{"name": "search"}])
    this()
    (values,) = [v for v in this.seen if v["loss_mask"].any()]
    assert values["prompts"][0] == 1


def test_a_batch_without_chats_is_refused_in_words(run):
    rows = group()
    for values in rows.values():
        del values["raw_prompt"]
    with pytest.raises(SettingsError, match="raw_prompt"):
        run(rows)()


def test_an_image_in_the_chat_is_refused_in_words(run, monkeypatch):
    rows = group()
    for values in rows.values():
        values["raw_prompt"] = [{"role": "user", "content": [{"type": "image"}]}]
    this = run(rows)
    ids = render([{"role": "user", "content": QUESTION}])
    builder = SimpleNamespace(build_initial_tokens=lambda messages, tools=None: ids)
    monkeypatch.setattr(Renderer, "_builder", builder)
    with pytest.raises(ValueError, match="text"):
        this()


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


ON_LOGITS = {"task": {"coef": 0.0}, "divergence": {"top_k": 4}}


def test_a_loss_on_logits_asks_about_every_row_and_says_which_are_taught(run):
    this = run(group(), **ON_LOGITS)()
    assert not this.workers.asked
    (batch,) = this.workers.asked_on_support
    assert list(batch.keys) == ["a_0_0", "a_1_0", "b_0_0"]
    assert batch.fields == list(support.FIELDS)
    assert batch.extra_info["temperature"] == 0.7
    prompt = TOKENIZER.decode(this.fake.train["a_0_0"][support.TEACHER_PROMPT])
    assert QUESTION in prompt
    assert "aabb" in prompt
    for key in ("a_1_0", "b_0_0"):
        assert this.fake.train[key][support.TEACHER_PROMPT].tolist() == [0]
    taught = {key: values[TAUGHT].tolist() for key, values in this.fake.train.items()}
    assert taught == {"a_0_0": [1] * 3, "a_1_0": [0] * 5, "b_0_0": [0] * 4}
    assert this.advantages() == {"a_0_0": [0.0] * 3, "a_1_0": [0.0] * 5, "b_0_0": [0.0] * 4}
    assert this.trainer.updated == [["a_0_0"]]
    assert this.metrics["verl_ext/teacher/prompt/taught"] == pytest.approx(1 / 3)
    assert this.metrics["verl_ext/teacher/support_non_finite"] == 0.0
    assert this.metrics["verl_ext/teacher/seconds"] >= 0
    assert "verl_ext/teacher/reverse_kl" not in this.metrics
    assert this.metrics["verl_ext/divergence/value"] == 0.25  # all tokens of the loss are taught


def test_beside_a_task_the_divergences_metrics_are_of_the_taught_tokens(run):
    task = {"task_estimator": "grpo", "coef": 0.0}
    this = run(group(), task=task, divergence={"top_k": 4})()
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]
    for name in ("value", "student_tail"):
        assert this.metrics[f"verl_ext/divergence/{name}"] == pytest.approx(0.25 * 12 / 3)
    assert this.metrics["verl_ext/divergence/loss"] == 0.25


def test_means_of_micro_batches_keep_the_rows_that_nobody_teaches(run):
    """The authors' denominators count them."""
    divergence = {"top_k": 4, "normalisation": "micro_batch_mean"}
    this = run(group(), task={"coef": 0.0}, divergence=divergence)()
    assert this.trainer.updated == [["a_0_0", "a_1_0", "b_0_0"]]
    nobody = run({"a_0_0": row("a", "xy", 0.0)}, task={"coef": 0.0}, divergence=divergence)()
    assert nobody.trainer.updated == []


def test_what_is_not_finite_on_the_support_is_counted(run):
    this = run(group(), broken="nan", **ON_LOGITS)()
    assert this.metrics["verl_ext/teacher/support_non_finite"] == pytest.approx(6 / (3 * 4))


def test_both_forms_at_once_ask_twice(run):
    this = run(group(), divergence={"top_k": 4})()
    assert len(this.workers.asked) == len(this.workers.asked_on_support) == 1
