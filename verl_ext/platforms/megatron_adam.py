"""Adam for Megatron's CPU runs, in the place of Transformer Engine's ``FusedAdam``.

With torch's own AdamW, Megatron cannot load its distributed optimizer: a fresh optimizer has no
step to ask for, and a loaded one shares a single step counter between all parameters, which then
advances once a parameter. FusedAdam counts steps by parameter group, so its path through Megatron,
and its checkpoint, have neither problem. The arithmetic here is torch's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw


class FusedAdam(torch.optim.Optimizer):
    """AdamW (or Adam) whose step counter belongs to the parameter group.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: coefficient.
        adam_w_mode: decay the weights themselves (AdamW); otherwise add decay to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.update = adamw if adam_w_mode else adam

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` is not supported."""
        if closure is not None:
            raise NotImplementedError("FusedAdam takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            steps = [torch.tensor(float(group.get("step", 0))) for _ in params]
            group["step"] = group.get("step", 0) + 1
            for p in params:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            self.update(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                steps,  # what the function counts up; the group keeps the number
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
