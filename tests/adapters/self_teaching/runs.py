"""A policy that teaches itself, around verl's own stages, on a queue in memory: no Ray."""

import math

import pytest
import torch
from adapters import learning_queue as queue
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from verl_ext.adapters.teacher import support, workers
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
    """verl's step over the batches that it is given, with an update of some gradient for each."""

    step = queue.trainer_base.PPOTrainer.step

    def __init__(self, config):
        super().__init__(config)
        self.tokenizer, self.processor = TOKENIZER, None

    def prepare_step(self):
        return {}

    @property
    def parameter_sync_step(self):
        return len(self.batches)

    def _step_once(self, metrics, timing_raw, sample_batch_size):
        batch = self.batches[self.local_trigger_step]
        return self._update_actor(self._compute_advantage(batch, metrics), metrics)

    def _update_actor(self, batch, metrics):
        metrics["actor/grad_norm"] = self.grad_norms[self.local_trigger_step]
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
            "data": {"train_batch_size": 12},
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 1, "strategy": "fsdp2", "use_kl_loss": False}
                | (actor or {}),
                "rollout": {"n": 1, "temperature": 0.7, "log_prob_use_dynamic_bsz": True}
                | (rollout or {}),
            },
        }
    )


class Run:
    """A step over some rows."""

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

    def __call__(self, *grad_norms, keys=None):
        """A step; ``keys`` are the rows of each of its updates, by default one of them all."""
        parts = [self.batch.select_keys(part) for part in keys or [self.batch.keys]]
        self.trainer.batches, self.trainer.grad_norms = parts, grad_norms or [1.0] * len(parts)
        self.trainer.step(self.metrics, {})
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


def group(**first):
    """A failure and a success of one prompt, and a lone failure of another."""
    return {
        "a_0_0": row("a", "xy", 0.0, **first),
        "a_1_0": row("a", "aabb", 1.0),
        "b_0_0": row("b", "zzz", 0.0),
    }


def groups(number):
    """So many failures beside a success, and their keys by group."""
    failed, won = row("a", "xy", 0.0), row("a", "aabb", 1.0)
    made = {}
    for uid in "cdefg"[:number]:
        made |= {f"{uid}_0_0": failed | {"uid": uid}, f"{uid}_1_0": won | {"uid": uid}}
    return made, [[f"{uid}_0_0", f"{uid}_1_0"] for uid in "cdefg"[:number]]


def judged(response, prompt_tokens, coef=1.0):
    ids = TOKENIZER(response + "<|im_end|>")["input_ids"]
    return pytest.approx([coef * (-i / 10 - prompt_tokens / 1000 - STUDENT) for i in ids], abs=1e-5)
