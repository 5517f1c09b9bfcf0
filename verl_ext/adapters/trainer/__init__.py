"""verl's V1 trainers with our stages, registered as ``verl_ext.<verl's name>``.

Each stage is a concern of its own, mixed in before verl's class; what it overrides it also calls.
"""

from typing import Any

from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync
from verl.trainer.ppo.v1.trainer_base import register_trainer

from verl_ext.adapters.trainer.alive import Alive
from verl_ext.adapters.trainer.checkpoint import Checkpointed
from verl_ext.adapters.trainer.deterministic import Deterministic
from verl_ext.adapters.trainer.finite import Finite
from verl_ext.adapters.trainer.learning import Learning
from verl_ext.adapters.trainer.off_policy import OffPolicy
from verl_ext.adapters.trainer.on_logits import OnLogits
from verl_ext.adapters.trainer.pass_at_k import PassAtK
from verl_ext.adapters.trainer.reference_probability import ReferenceRewards
from verl_ext.adapters.trainer.resampling import Resampling
from verl_ext.adapters.trainer.sampling import Sampling
from verl_ext.adapters.trainer.task_metrics import TaskMetrics
from verl_ext.adapters.trainer.teacher_server import TeacherServers
from verl_ext.adapters.trainer.teaching import Teaching
from verl_ext.adapters.trainer.test_time import TestTime
from verl_ext.adapters.trainer.tournament import TournamentRewards


class VerlExtTrainer(
    Finite,  # first: it looks at what all others have left
    Checkpointed,
    Sampling,
    Deterministic,
    TestTime,
    ReferenceRewards,
    TournamentRewards,
    Learning,
    Resampling,
    OnLogits,
    Teaching,
    TeacherServers,
    TaskMetrics,
    PassAtK,
    OffPolicy,
    Alive,
):
    """What verl-ext adds to a V1 trainer."""

    base_mode: str

    def __init__(self, config: DictConfig) -> None:
        # verl compares the mode string with "sync" in eight places: give it the name it knows.
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.base_mode
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        """Adds a key: how often verl looks whether rollouts are done (its 2 s rule a CPU step)."""
        buffer = super()._build_replay_buffer()
        interval = self.config.trainer.v1.sampler.sampler_kwargs.get("poll_interval")
        if interval is not None:
            buffer.poll_interval = float(interval)
        return buffer


@register_trainer("verl_ext.sync")
class VerlExtTrainerSync(VerlExtTrainer, PPOTrainerSync):
    """verl's synchronous trainer with our stages."""

    base_mode = "sync"


@register_trainer("verl_ext.colocate_async")
class VerlExtTrainerColocateAsync(VerlExtTrainer, PPOTrainerColocateAsync):
    """verl's asynchronous trainer on shared devices with our stages."""

    base_mode = "colocate_async"


@register_trainer("verl_ext.separate_async")
class VerlExtTrainerSeparateAsync(VerlExtTrainer, PPOTrainerSeparateAsync):
    """verl's asynchronous trainer on separate devices with our stages."""

    base_mode = "separate_async"
