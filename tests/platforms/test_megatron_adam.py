"""The CPU's FusedAdam is torch's Adam; only where the steps are counted differs."""

import copy

import pytest
import torch

from verl_ext.platforms.megatron_adam import FusedAdam


def parameters(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 2), (4,))]


def take_steps(optimizer, params, steps, seed):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)
        optimizer.step()


@pytest.mark.parametrize(
    ("adam_w_mode", "reference"), [(True, torch.optim.AdamW), (False, torch.optim.Adam)]
)
def test_the_arithmetic_is_torchs(adam_w_mode, reference):
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}
    ours, theirs = parameters(), parameters()
    take_steps(FusedAdam(ours, adam_w_mode=adam_w_mode, **settings), ours, 3, seed=1)
    take_steps(reference(theirs, **settings), theirs, 3, seed=1)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_a_loaded_optimizer_goes_on_to_the_bit():
    params = parameters()
    optimizer = FusedAdam(params, lr=0.1)
    take_steps(optimizer, params, 2, seed=1)
    weights = [p.detach().clone() for p in params]
    state = copy.deepcopy(optimizer.state_dict())
    assert [group["step"] for group in state["param_groups"]] == [2]
    assert all("step" not in moments for moments in state["state"].values())
    take_steps(optimizer, params, 2, seed=2)
    others = [torch.nn.Parameter(w) for w in weights]
    resumed = FusedAdam(others, lr=0.1)
    resumed.load_state_dict(state)
    take_steps(resumed, others, 2, seed=2)
    for a, b in zip(params, others, strict=True):
        assert torch.equal(a, b)


def test_a_parameter_without_gradient_is_left_alone():
    moved, frozen = parameters()
    before = frozen.detach().clone()
    optimizer = FusedAdam([moved, frozen], lr=0.1)
    moved.grad = torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(frozen, before)
    assert frozen not in optimizer.state


def test_a_closure_is_refused():
    with pytest.raises(NotImplementedError, match="closure"):
        FusedAdam(parameters()).step(lambda: 0.0)
