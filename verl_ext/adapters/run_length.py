"""How long a run is, as far as the driver can know."""

from typing import Any


def updates(trainer: Any) -> int | None:
    """Updates of a run as verl counts them for schedules; None if the length of the data decides.

    Args:
        trainer: verl's section; one of its modes has several updates a step.
    """
    mode = str(trainer.v1.trainer_mode).removeprefix("verl_ext.")
    a_step = (trainer.v1.get(mode) or {}).get("parameter_sync_step", 1) if trainer.use_v1 else 1
    steps = trainer.total_training_steps
    return None if steps is None else int(steps * a_step)
