"""The same training by verl's workers, on FSDP2 or Megatron, called from each rank."""

import contextlib
from unittest import mock

import torch
from engine_parity import gradients
from engine_parity.cases import LEARNING_RATE, UPDATES
from omegaconf import open_dict

TEMPERATURE = 1.0


def compose(method, engine, overrides):
    """verl's configuration of the overlay at CPU scale on an engine."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    shared = [
        f"actor_rollout_ref.actor.optim.lr={LEARNING_RATE}",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "actor_rollout_ref.actor.optim.total_training_steps=100",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=${actor_rollout_ref.actor.use_dynamic_bsz}",
        *method.overrides,
        *overrides,
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra_compose(
            "ppo_trainer",
            [f"model_engine={engine}", f"+paper={method.overlay}", "+scale=cpu", *shared],
        ).actor_rollout_ref
    if method.divergence:  # as the trainer tells its workers
        with open_dict(config):
            config.rollout.custom = {"verl_ext": {"divergence": method.divergence}}
    return config


def settings_of(config):
    """What the reference needs to know of the loss and the optimizer."""
    actor = config.actor
    return {
        "clip_low": actor.clip_ratio_low,
        "clip_high": actor.clip_ratio_high,
        "clip_c": actor.clip_ratio_c,
        "entropy_coeff": actor.entropy_coeff,
        "kl_coef": actor.kl_loss_coef if actor.use_kl_loss else 0.0,
        "max_norm": actor.optim.clip_grad,
        "weight_decay": actor.optim.weight_decay,
        "betas": tuple(actor.optim.betas),
    }


def train(config, folder, batch, advantages):
    """Runs in every rank: UPDATES updates of the whole batch by verl's worker.

    Returns what the rank that holds outputs saw, as lists over this rank's rows; None elsewhere.
    """
    return run(build(config, folder), batch, advantages)


def warm_up():
    """Imports what a job imports."""
    import verl.workers.engine_workers  # noqa: F401


def train_in_double_precision(config, folder, batch, advantages):
    """The same in float64."""
    with double_precision():
        return run(build(config, folder), batch, advantages, dtype=torch.float64)


def double_precision():
    """float64, a name that verl's table of dtypes lacks, whatever the configuration asks for."""
    from verl.utils.torch_dtypes import PrecisionType

    return mock.patch.object(PrecisionType, "to_dtype", return_value=torch.float64)


def gradient(config, folder, batch, advantages, precision):
    """The whole gradient of one update of the whole batch; None but in the first rank."""
    with double_precision() if precision == "float64" else contextlib.nullcontext():
        worker = build(config, folder)
        dtype = getattr(torch, precision)
        result = run(worker, batch, advantages, updates=1, outputs=False, dtype=dtype)
    return (result or {}).get("gradient")


def build(config, folder):
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from verl_ext.adapters.teacher.workers import TaughtWorker

    if config.actor.strategy == "megatron":
        forget_other_layouts(config.actor.megatron)
        forget_other_models()
    config.model.path = str(folder)
    if "custom" in config.rollout:
        with open_dict(config):
            config.rollout.custom.verl_ext.teacher_path = f"{folder}_teacher"
        worker = TaughtWorker(config, role="actor_rollout_ref")
        worker.role = "actor_ref"  # no rollout: it would import vLLM and start Ray
    else:
        worker = ActorRolloutRefWorker(config, role="actor")
    worker.init_model()
    return worker


_layout = None


def forget_other_layouts(sizes):
    """Megatron's process groups stay for jobs of the same layout.

    They are some thirty with many threads each, and those of a model that has trained are never
    freed: hooks of autograd's C++ nodes hold it. Hence also the order of the tests.
    """
    global _layout
    from megatron.core import parallel_state

    layout = [size for name, size in sizes.items() if name.endswith("_parallel_size")]
    if layout != _layout:
        parallel_state.destroy_model_parallel()
    _layout = layout


def forget_other_models():
    """mbridge writes what tied embeddings need into its class, for every later model."""
    from mbridge.models.qwen2 import Qwen2Bridge

    Qwen2Bridge._DIRECT_MAPPING["output_layer.weight"] = "lm_head.weight"


def save_and_go_on(config, folder, batch, advantages, place):
    """Two updates, a checkpoint, two updates; what the last two did."""
    worker = build(config, folder)
    run(worker, batch, advantages, updates=2, outputs=False)
    worker.save_checkpoint(place, global_step=2)
    return run(worker, batch, advantages, updates=2)


def load_and_go_on(config, folder, batch, advantages, place):
    """A new worker, the checkpoint, two updates."""
    worker = build(config, folder)
    worker.load_checkpoint(place)
    return run(worker, batch, advantages, updates=2)


def rows_of(worker, batch):
    """The rows of this rank's share of the batch."""
    engine = worker.actor.engine
    share = len(batch) // engine.get_data_parallel_size()
    first = share * engine.get_data_parallel_rank()
    return list(range(first, first + share))


def run(
    worker, batch, advantages, *, updates=UPDATES, outputs=True, dtype=torch.float32, fields=None
):
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    engine, mine = worker.actor.engine, rows_of(worker, batch)
    data = tensordict(batch.rows(mine), advantages[mine], dtype)
    info = {"temperature": TEMPERATURE, "global_batch_size": len(batch)}
    result = {"rows": mine, "loss": [], "grad_norm": []}
    if outputs:
        probe = tu.get_tensordict(dict(data.items()), {**info, "calculate_entropy": True})
        tu.assign_non_tensor(probe, compute_loss=False)
        output = worker.compute_log_prob(probe)
        if output is not None:
            for name in ("log_probs", "entropy"):
                nested = response_from_nested(output[name], data["response_mask"])
                result[name] = [row.clone() for row in nested.unbind()]
    with gradients.first_of(engine) as gradient:
        for _ in range(updates):
            columns = dict(data.items()) | (fields or {})
            step = tu.get_tensordict(columns, {**info, "mini_batch_size": len(batch)})
            tu.assign_non_tensor(step, calculate_entropy=True, epochs=1)
            output = worker.update_actor(step)
            if output is not None:
                metrics = tu.get(output, "metrics")
                result["loss"] += _flat(metrics["loss"])
                result["grad_norm"] += _flat(metrics["grad_norm"])
    weights = gradients.weights(engine)
    if torch.distributed.get_rank() == 0:
        result |= {"weights": weights, "gradient": gradient}
    return result if engine.is_mp_src_rank_with_outputs() or "weights" in result else None


def jagged(values):
    return torch.nested.as_nested_tensor(values, layout=torch.jagged)


def tensordict(batch, advantages, dtype):
    """The batch as the trainer hands it to a worker: jagged, without padding."""
    from verl.utils import tensordict_utils as tu

    lengths = [len(response) for response in batch.responses]
    rows = [torch.cat(pair) for pair in zip(batch.prompts, batch.responses, strict=True)]
    fields = {
        "input_ids": jagged(rows),
        "position_ids": jagged([torch.arange(len(row)) for row in rows]),
        "prompts": jagged(batch.prompts),
        "responses": jagged(batch.responses),
        "response_mask": jagged([mask.long() for mask in batch.mask]),
        "loss_mask": jagged([mask.long() for mask in batch.mask]),
        "old_log_probs": jagged([value.to(dtype) for value in batch.old_log_probs]),
        "ref_log_prob": jagged([value.to(dtype) for value in batch.ref_log_probs]),
        "advantages": jagged([a[:n].to(dtype) for a, n in zip(advantages, lengths, strict=True)]),
    }
    return tu.get_tensordict(fields, {})


def _flat(value):
    return [float(v) for v in value] if isinstance(value, list) else [float(value)]
