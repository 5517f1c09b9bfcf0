"""verl's reference worker as a teacher: its weights, and its logits while the actor learns."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.config.model import MtpConfig
from verl.workers.engine_workers import TrainingWorker

from verl_ext.adapters.teacher.loss import FLAGS


def teacher_model(model: DictConfig, path: str) -> Any:
    """verl's ``HFModelConfig`` of the actor with another model's weights and architecture."""
    node = deepcopy(model)
    with open_dict(node):
        node.path = path
        for name in ("hf_config_path", "tokenizer_path"):
            if name in node:
                node[name] = None
    made = omega_conf_to_dataclass(OmegaConf.create(node))
    made.mtp = MtpConfig(enable=False)
    return made


def teacher_worker(config: TrainingWorkerConfig, *, model: DictConfig, path: str) -> TrainingWorker:
    """Builds the reference model from the teacher's path, where verl takes the actor's."""
    return TrainingWorker(config=replace(config, model_config=teacher_model(model, path)))


class ReferenceLogits:
    """The logits of the reference worker's model for the micro-batch in hand.

    Its engine runs inside the actor's forward pass, after the student's logits are there; it must
    be in its eval mode. Both engines pack and share out a micro-batch alike.

    Args:
        engine: verl's, of the reference worker.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @torch.no_grad()
    def __call__(self, data: TensorDict) -> Tensor:
        """(1, tokens, vocabulary) or (rows, time, vocabulary), divided by the temperature."""
        caught: list[Tensor] = []

        def catch(student_logits: Tensor | None = None, **_: Any) -> Any:
            if student_logits is None:  # verl's second call, for a loss
                return torch.zeros(()), {}
            caught.append(student_logits)
            return {}

        batch = data.copy()
        tu.assign_non_tensor(batch, calculate_entropy=False, calculate_sum_pi_squared=False)
        tu.assign_non_tensor(batch, **FLAGS)
        if isinstance(self.engine.module, list):  # Megatron's, one a virtual stage
            (module,) = self.engine.module
            self.engine.forward_step(iter([batch]), module, catch, _nothing)
        else:
            self.engine.forward_step(batch, loss_function=catch, forward_only=True)
        (logits,) = caught
        return logits


def _nothing(*_: Any, **__: Any) -> None:
    """Stands for what Megatron's schedule would do with the output."""
