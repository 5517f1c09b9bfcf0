"""A policy as its own teacher in verl's workers, called from each rank."""

import torch
from engine_parity import engines, gradients
from omegaconf import open_dict
from verl.utils import tensordict_utils as tu

from verl_ext.adapters.teacher import support
from verl_ext.adapters.teacher.loss import SUPPORT_IDS, SUPPORT_LOG_PROBS, TAUGHT


def compose(method, engine, overrides, divergence=None, **teacher):
    """verl's configuration, with what the trainer tells its workers of the teacher."""
    config = engines.compose(method, engine, overrides)
    own = {"rate": 0.25, "log_prob_floor": -20.0} | teacher
    with open_dict(config):
        config.rollout.custom = {"verl_ext": {"own_teacher": own, "divergence": divergence}}
    return config


GROWN = 1.05  # an average that is not the live weights


def distill(config, folder, batch, advantages, lessons):
    """Asks the teacher about likely tokens, then trains against what it said."""
    worker = engines.build(config, folder)
    if config.rollout.custom.verl_ext.own_teacher.source == "ema":
        for weight in worker._ext_teacher.average.weights.values():
            weight.mul_(GROWN)
    mine = engines.rows_of(worker, batch)
    data = engines.tensordict(batch.rows(mine), advantages[mine], torch.float32)
    prompts = [torch.zeros(1, dtype=torch.int64) if p is None else p for p in lessons]
    data[support.TEACHER_PROMPT] = engines.jagged([prompts[row] for row in mine])
    asked = data.select(*support.FIELDS)
    tu.assign_non_tensor(asked, temperature=engines.TEMPERATURE, calculate_entropy=False)
    output = worker.ext_teacher_on_support(asked)
    said = {}
    if output is not None:
        names = (SUPPORT_IDS, SUPPORT_LOG_PROBS, support.REPLACED)
        said = {
            row: {name: output[name][place] for name in names} for place, row in enumerate(mine)
        }
    said = everywhere(said)  # as the trainer's queue does
    fields = {
        name: engines.jagged([said[row][name] for row in mine])
        for name in (SUPPORT_IDS, SUPPORT_LOG_PROBS)
    }
    fields[TAUGHT] = engines.jagged(
        [torch.full((len(batch.mask[row]),), int(lessons[row] is not None)) for row in mine]
    )
    return engines.run(worker, batch, advantages, fields=fields)


def everywhere(values):
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    return {key: value for part in parts for key, value in part.items()}


def beside_the_actor(config, folder, batch):
    """The teacher's log-probs and the actor's of the same sequences, and whose loss the actor has.

    Returns, of ranks with outputs, lists over this rank's rows.
    """
    worker = engines.build(config, folder)
    loss = worker.actor.loss_fn
    mine, taught = teach(worker, batch)
    _, live = judge(worker, batch)
    assert worker.actor.loss_fn is loss
    return None if taught is None else {"rows": mine, "teacher": taught, "actor": live}


def average(config, folder, batch, advantages, steps, place=None, stop=None):
    """Trains and averages; what the average says, and whether the live weights came back.

    Args:
        place: where a checkpoint is saved after ``stop`` steps.
    """
    worker = engines.build(config, folder)
    history = [whole(worker)]
    distances = []
    for step in range(steps):
        engines.run(worker, batch, advantages, updates=1, outputs=False)
        distances.append(worker.ext_update_average())
        history.append(whole(worker))
        if step + 1 == stop:
            worker.save_checkpoint(place, global_step=stop)
    return outcome(worker, batch) | {"history": history, "distances": distances}


def resume(config, folder, batch, advantages, steps, place):
    """A new worker, the checkpoint, further steps."""
    worker = engines.build(config, folder)
    worker.load_checkpoint(place)
    for _ in range(steps):
        engines.run(worker, batch, advantages, updates=1, outputs=False)
        worker.ext_update_average()
    return outcome(worker, batch) | {"live": whole(worker)}


def outcome(worker, batch):
    before, own = whole(worker), judge(worker, batch)[1]
    mine, taught = teach(worker, batch)
    kept = same(before, whole(worker))
    again = judge(worker, batch)[1]
    return {
        "rows": mine,
        "teacher": taught,
        "kept": kept and (own is None or all(map(torch.equal, own, again))),
        "kept_after_an_error": kept_after_an_error(worker, batch, before),
        "average": worker._ext_teacher.average.state_dict(),
    }


def kept_after_an_error(worker, batch, before):
    usual = worker.actor.infer_batch

    def fail(data):
        raise RuntimeError("out of memory")

    worker.actor.infer_batch = fail
    try:
        teach(worker, batch)
    except RuntimeError as error:
        return str(error) == "out of memory" and same(before, whole(worker))
    finally:
        worker.actor.infer_batch = usual
    return False


def teach(worker, batch):
    return read(worker, batch, worker.ext_teacher_log_prob, "verl_ext_teacher_log_probs")


def judge(worker, batch):
    return read(worker, batch, worker.compute_log_prob, "log_probs")


def read(worker, batch, method, name):
    """(rows of this rank, their sampled tokens' log-probs)."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    mine = engines.rows_of(worker, batch)
    rows = batch.rows(mine)
    data = engines.tensordict(rows, torch.zeros(len(mine), 32), torch.float32)
    tu.assign_non_tensor(data, temperature=engines.TEMPERATURE, compute_loss=False)
    output = method(data)
    if output is None:
        return mine, None
    nested = response_from_nested(output[name], data["response_mask"])
    return mine, [row[own].clone() for row, own in zip(nested.unbind(), rows.mask, strict=True)]


def whole(worker):
    return gradients.weights(worker.actor.engine)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)
