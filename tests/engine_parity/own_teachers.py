"""A policy as its own teacher in verl's workers, called from each rank."""

import torch
from engine_parity import engines
from omegaconf import open_dict


def compose(method, engine, overrides, **teacher):
    """verl's configuration, with what the trainer tells its workers of the teacher."""
    config = engines.compose(method, engine, overrides)
    with open_dict(config):
        config.rollout.custom = {"verl_ext": {"own_teacher": {"rate": 0.25} | teacher}}
    return config


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

    engine = worker.actor.engine
    share = len(batch) // engine.get_data_parallel_size()
    first = share * engine.get_data_parallel_rank()
    mine = list(range(first, first + share))
    rows = batch.rows(mine)
    data = engines.tensordict(rows, torch.zeros(share, 32), torch.float32)
    tu.assign_non_tensor(data, temperature=engines.TEMPERATURE, compute_loss=False)
    output = method(data)
    if output is None:
        return mine, None
    nested = response_from_nested(output[name], data["response_mask"])
    return mine, [row[own].clone() for row, own in zip(nested.unbind(), rows.mask, strict=True)]


def whole(worker):
    return {
        name: engines._full(value) for name, value in worker.actor.engine.get_per_tensor_param()[0]
    }


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)
