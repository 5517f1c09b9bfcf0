"""The reference-probability reward around verl's trainer, on a queue in memory: no Ray."""

from collections import defaultdict

import torch
from adapters.reference_settings import TAGS
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tensordict_utils import get_tensordict, list_of_dict_to_tensordict

from verl_ext.adapters.trainer import reference_probability as stage
from verl_ext.toy.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
WEIGHTS = {"probability": 1.0, "verifier": 0.0}


class Queue:
    """Rows of the training partition, and which keys were cleared where."""

    def __init__(self, rows):
        self.rows, self.cleared = rows, defaultdict(list)

    def kv_batch_get(self, keys, partition_id, select_fields):
        return list_of_dict_to_tensordict(
            [{name: self.rows[key][name] for name in select_fields} for key in keys]
        )

    def kv_batch_put(self, keys, partition_id, fields):
        for row, key in enumerate(keys):
            value = fields["extra_fields"][row]
            self.rows[key]["extra_fields"] = getattr(value, "data", value)
            self.rows[key]["rm_scores"] = fields["rm_scores"].unbind()[row]

    def kv_clear(self, keys, partition_id):
        self.cleared[partition_id] += keys


class Buffer:
    def __init__(self, tags=()):
        self.tags = dict(tags)
        self.partitions, self.prompt_global_steps = {}, {"train": {}}

    def _sync_metadata_from_transfer_queue(self):
        self.partitions = self.tags

    def _select_prompt_uids(self, partition, keys, batch_size):
        return sorted(keys)[:batch_size], self.partitions[partition], {}

    def _materialize_batch(self, partition, uids, rows):
        return uids


class Base:
    """verl's trainer, as far as it is asked; a step has as many updates as ``batches``."""

    step = PPOTrainer.step
    batches = (KVBatchMeta(partition_id="train", keys=[], tags=[]),)

    @property
    def parameter_sync_step(self):
        return len(self.batches)

    def prepare_step(self):
        return {}

    def _step_once(self, metrics, timing_raw, sample_batch_size):
        batch = self._balance_batch(self.batches[self.local_trigger_step], metrics)
        return self._update_actor(batch, metrics)

    def __init__(self, config):
        self.config, self.global_steps = config, 3
        self.tokenizer, self.processor, self.updates = TOKENIZER, None, 0
        self.buffer = Buffer()

    def _init_dataloader(self):
        self.train_dataset = [row("a", "toy"), row("bc", "toy"), row("7", "maths")]

    def _load_checkpoint(self):
        self.loaded = True

    def _build_replay_buffer(self):
        return self.buffer

    def _next_train_batch(self, num_prompts=None):
        columns = defaultdict(list)
        for item in self.train_dataset[: num_prompts or 3]:
            for name, value in item.items():
                columns[name].append(value)
        return get_tensordict(dict(columns))

    def _balance_batch(self, batch, metrics):
        return batch

    def _update_actor(self, batch, metrics):
        self.updates += 1
        return batch

    def _compute_metrics(self, batch, metrics, **more):
        metrics["verl"] = 1.0

    def ext_state(self):
        return {}

    def ext_restore(self, state):
        return []


class Trainer(stage.ReferenceRewards, Base):
    """``ext_batch`` and the policy's log-probs: −0.1 a token until an update, −0.2 after it."""

    asked = 0

    def ext_actor_log_probs(self, readings):
        self.asked += len(readings)
        nats = -0.1 * (1 + self.updates)
        return [torch.full((len(reading.response),), nats) for reading in readings]

    def _ext_rendered(self, chat):
        return TOKENIZER(chat[0]["content"])["input_ids"]


def row(reference, source):
    chat = [{"role": "user", "content": f"question of {reference}"}]
    return {
        "data_source": source,
        "raw_prompt": chat,
        "reward_model": {"ground_truth": reference},
    }


def trainer(**section):
    weights = {"maths": {"probability": 0.0, "verifier": 1.0}}
    section = {"tags": TAGS, "weights": weights} | section
    roles = {
        "model": {"path": "/nowhere"},
        "actor": {"strategy": "fsdp2", "fsdp_config": {"dtype": "float32"}},
        "rollout": {"n": 4, "response_length": 10, "prompt_length": 9, "agent": {}},
    }
    group = {"reference_probability": section}
    made = Trainer(
        OmegaConf.create(
            {
                "algorithm": {"verl_ext": {"group_reward": group if section else {}}},
                "actor_rollout_ref": roles,
                "data": {"train_batch_size": 12},
            }
        )
    )
    made._init_dataloader()
    return made
