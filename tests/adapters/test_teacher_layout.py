"""Which logits belong to which token of a micro-batch, and what the loss makes of them."""

import math
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from tensordict import TensorDict

from verl_ext.adapters.teacher import layout
from verl_ext.adapters.teacher import loss as loss_module
from verl_ext.adapters.teacher.loss import (
    DIVERGENCE,
    SUPPORT_IDS,
    SUPPORT_LOG_PROBS,
    TAUGHT,
    DistillationLoss,
)
from verl_ext.adapters.teacher.settings import Divergence
from verl_ext.losses.divergence import divergence

PROMPTS = [[1, 2, 3], [4]]
RESPONSES = [[5, 6], [7, 8, 9]]
MASKS = [[1, 1], [1, 0, 1]]
VOCABULARY = 12


def jagged(values):
    rows = [torch.tensor(row) for row in values]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def micro_batch(**fields):
    whole = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    return TensorDict(
        {
            "input_ids": jagged(whole),
            "prompts": jagged(PROMPTS),
            "responses": jagged(RESPONSES),
            "response_mask": jagged(MASKS),
        }
        | fields,
        batch_size=2,
    )


def test_a_token_is_found_where_its_logits_are_one_position_before_it():
    tokens = layout.sampled_tokens(micro_batch())
    # packed: 1 2 3 5 6 | 4 7 8 9, and the logits at 3 predict 5.
    assert tokens.positions.tolist() == [2, 3, 5, 7]
    assert tokens.labels.tolist() == [5, 6, 7, 9]
    assert tokens.places.tolist() == [0, 1, 2, 4]
    assert tokens.slots.values().tolist() == [0, 0, 1, 2, 0, 3, 0, 4, 0]
    assert tokens.slots.offsets().tolist() == [0, 5, 9]


def test_a_micro_batch_in_which_no_token_counts_has_none():
    empty = micro_batch(response_mask=jagged([[0, 0], [0, 0, 0]]))
    tokens = layout.sampled_tokens(empty)
    assert not tokens.positions.numel()
    assert not tokens.slots.values().any()


def test_logits_that_are_laid_out_in_another_way_are_refused():
    loss = DistillationLoss(SimpleNamespace(strategy="fsdp2"), Divergence(top_k=3))
    with pytest.raises(
        RuntimeError, match=r"laid this micro-batch out as \(1, 10\) tokens, \(1, 9\)"
    ):
        loss(student_logits=torch.zeros(1, 10, VOCABULARY), data=micro_batch())


def outputs(teacher=None, data=None, **settings):
    torch.manual_seed(0)
    logits = torch.randn(1, 9, VOCABULARY, dtype=torch.float64, requires_grad=True)
    loss = DistillationLoss(SimpleNamespace(strategy="fsdp2"), Divergence(**settings), teacher)
    batch = micro_batch() if data is None else data
    return logits, loss(student_logits=logits, data=batch)


def test_outputs_are_per_token_zero_elsewhere_and_the_log_probs_are_the_students():
    torch.manual_seed(1)
    teacher = torch.randn(1, 9, VOCABULARY, dtype=torch.float64)
    logits, found = outputs(lambda data: teacher, top_k=3, alpha="reverse_kl")
    log_p, log_q = logits[0].log_softmax(-1), teacher[0].log_softmax(-1)
    wanted = torch.zeros(9, dtype=torch.float64)
    for position, label in zip([2, 3, 5, 7], [5, 6, 7, 9], strict=True):
        wanted[position] = log_p[position, label]
    torch.testing.assert_close(found["log_probs"][0], wanted)
    for position in range(9):
        ids = log_p[position].topk(3).indices
        p, q = log_p[position].exp(), log_q[position].exp()
        p = torch.cat([p[ids], 1 - p[ids].sum()[None]])
        q = torch.cat([q[ids], 1 - q[ids].sum()[None]])
        value = (p * (p / q).log()).sum() if position in (2, 3, 5, 7) else torch.zeros(())
        torch.testing.assert_close(found[DIVERGENCE][0, position], value.double())


def test_a_micro_batch_in_which_no_token_counts_still_has_a_gradient():
    teacher = torch.zeros(1, 9, VOCABULARY, dtype=torch.float64)
    empty = micro_batch(response_mask=jagged([[0, 0], [0, 0, 0]]))
    logits, found = outputs(lambda data: teacher, empty, top_k=3)
    (found["log_probs"].sum() + found[DIVERGENCE].sum()).backward()
    assert not logits.grad.any()


def test_a_servers_top_k_is_read_at_the_position_of_the_logits():
    torch.manual_seed(2)
    log_q = torch.randn(9, VOCABULARY, dtype=torch.float64).log_softmax(-1)
    best = log_q.topk(3)
    offsets = torch.tensor([0, 5, 9])
    served = {
        "teacher_ids": torch.nested.nested_tensor_from_jagged(best.indices.int(), offsets),
        "teacher_logprobs": torch.nested.nested_tensor_from_jagged(best.values, offsets),
    }
    settings = {"top_k": 3, "support": "teacher", "alpha": "forward_kl"}
    _, of_server = outputs(None, micro_batch(**served), **settings)
    _, of_logits = outputs(lambda data: log_q[None], **settings)
    torch.testing.assert_close(of_server[DIVERGENCE], of_logits[DIVERGENCE], atol=1e-12, rtol=0)


def test_a_servers_log_probs_of_16_bits_are_read_in_32():
    log_q = torch.full((9, 3), -1.1, dtype=torch.bfloat16)
    offsets, ids = torch.tensor([0, 5, 9]), torch.arange(3).repeat(9, 1)
    served = {
        "teacher_ids": torch.nested.nested_tensor_from_jagged(ids, offsets),
        "teacher_logprobs": torch.nested.nested_tensor_from_jagged(log_q, offsets),
    }
    loss = DistillationLoss(SimpleNamespace(strategy="fsdp2"), Divergence(top_k=3))
    logits = torch.zeros(1, 9, VOCABULARY)
    here = layout.Here.find(logits, micro_batch(**served), "fsdp2", "thd")
    assert loss._teacher(here, VOCABULARY).log_probs.dtype == torch.float32


def test_what_an_own_teacher_said_is_read_at_the_place_of_the_token_in_its_response():
    torch.manual_seed(2)
    log_q = torch.randn(5, VOCABULARY, dtype=torch.float64).log_softmax(-1)  # 5 6 | 7 8 9
    torch.manual_seed(0)
    log_p = torch.randn(1, 9, VOCABULARY, dtype=torch.float64)[0].log_softmax(-1)
    ids = log_p[[2, 3, 5, 6, 7]].topk(3).indices
    offsets = torch.tensor([0, 2, 5])
    asked = {
        SUPPORT_IDS: torch.nested.nested_tensor_from_jagged(ids.int(), offsets),
        SUPPORT_LOG_PROBS: torch.nested.nested_tensor_from_jagged(log_q.gather(1, ids), offsets),
    }
    _, found = outputs(None, micro_batch(**asked), top_k=3, alpha="forward_kl")
    teacher = torch.zeros(9, VOCABULARY, dtype=torch.float64)
    teacher[[2, 3, 5, 6, 7]] = log_q
    _, of_logits = outputs(lambda data: teacher[None], top_k=3, alpha="forward_kl")
    torch.testing.assert_close(found[DIVERGENCE], of_logits[DIVERGENCE], atol=1e-12, rtol=0)


TOKENS, ROWS, RANKS = 10, 6, 2  # of the whole batch and of the ranks that share it
VALUES = [[1.0, 2.0], [4.0, 50.0, 8.0]]  # of the second row's middle token nothing counts
OLD, NEW = [[-1.0, -1.0], [-1.0, -1.0, -1.0]], [[-1.0, -0.5], [-2.0, -1.0, 0.0]]


def loss_of(monkeypatch, mode="token-mean", weights=None, taught=None, **settings):
    """The distillation's share of the loss and its metrics, of values that are given."""
    config = SimpleNamespace(
        strategy="fsdp2",
        loss_agg_mode=mode,
        global_batch_info={
            "dp_size": RANKS, "batch_num_tokens": TOKENS, "global_batch_size": ROWS,
            "loss_scale_factor": None,
        },
    )  # fmt: skip
    monkeypatch.setattr(loss_module, "ppo_loss", lambda *_: (torch.tensor(7.0), {}))
    padded = {"values": VALUES, "new": NEW}
    monkeypatch.setattr(
        loss_module,
        "no_padding_2_padding",
        lambda name, _: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in padded[name]], batch_first=True
        ),
    )
    fields = {"old_log_probs": jagged(OLD)}
    fields |= {} if weights is None else {"rollout_is_weights": jagged(weights)}
    fields |= {} if taught is None else {TAUGHT: jagged(taught)}
    loss = DistillationLoss(config, Divergence(coef=0.5, **settings))
    total, metrics = loss({DIVERGENCE: "values", "log_probs": "new"}, micro_batch(**fields))
    return (total.item() - 7.0) / 0.5, {name: m.aggregate() for name, m in metrics.items()}


def test_the_term_is_a_mean_over_the_whole_batchs_tokens(monkeypatch):
    term, metrics = loss_of(monkeypatch)
    assert term == pytest.approx((1 + 2 + 4 + 8) / TOKENS * RANKS)
    assert metrics["verl_ext/divergence/loss"] == pytest.approx(term)
    assert metrics["verl_ext/divergence/value"] == pytest.approx(term)


def test_the_rollouts_correction_and_the_importance_weigh_each_token(monkeypatch):
    weights = [[1.0, 0.5], [2.0, 9.0, 0.25]]
    term, metrics = loss_of(monkeypatch, weights=weights, importance_clip=1.5)
    moved = [1.0, 1.5, math.exp(-1), 1.5]  # e^0.5 and e^1 are clipped
    counted = zip([1.0, 2.0, 4.0, 8.0], [1.0, 0.5, 2.0, 0.25], moved, strict=True)
    assert term == pytest.approx(sum(v * w * r for v, w, r in counted) / TOKENS * RANKS)
    assert metrics["verl_ext/divergence/value"] == pytest.approx(15 / TOKENS * RANKS)


def test_tokens_that_nobody_teaches_have_no_divergence_and_count(monkeypatch):
    term, _ = loss_of(monkeypatch, taught=[[1, 1], [0, 0, 0]])
    assert term == pytest.approx((1 + 2) / TOKENS * RANKS)


@pytest.mark.parametrize(
    ("taught", "mean"),
    [(None, 15 / 4), ([[1, 1], [0, 0, 0]], 3 / 2), ([[0, 0], [0, 0, 0]], 0.0)],
)
def test_a_micro_batchs_own_mean_counts_as_its_rows_do(monkeypatch, taught, mean):
    term, _ = loss_of(monkeypatch, taught=taught, normalisation="micro_batch_mean")
    assert term == pytest.approx(mean * 2 / ROWS * RANKS)


@pytest.mark.parametrize(("own", "width"), [(5, 7), (7, 5), (6, 6)])
def test_a_teachers_logits_are_cut_or_filled_to_the_students_vocabulary(own, width):
    logits = torch.arange(2 * own, dtype=torch.float32).view(2, own)
    fitted = layout.of_width(logits, width, "fsdp2")
    assert fitted.shape == (2, width)
    assert torch.equal(fitted[:, : min(own, width)], logits[:, : min(own, width)])
    assert fitted.log_softmax(-1)[:, own:] == pytest.approx(-20, abs=1e-4)


def test_ids_that_a_teacher_does_not_have_keep_every_divergence_finite():
    teacher = layout.of_width(torch.randn(2, 5), 7, "fsdp2")
    student = torch.randn(2, 7, requires_grad=True)
    found = divergence(student, teacher, alpha=1.0, support="full")
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad.isfinite().all()
