"""Which logits belong to which token of a micro-batch, and what the loss makes of them."""

from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from tensordict import TensorDict

from verl_ext.adapters.teacher import layout
from verl_ext.adapters.teacher.loss import DIVERGENCE, DistillationLoss
from verl_ext.adapters.teacher.settings import Divergence

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
    assert tokens.slots.values().tolist() == [0, 0, 1, 2, 0, 3, 0, 4, 0]
    assert tokens.slots.offsets().tolist() == [0, 5, 9]


def test_a_micro_batch_in_which_no_token_counts_has_none():
    empty = micro_batch(response_mask=jagged([[0, 0], [0, 0, 0]]))
    tokens = layout.sampled_tokens(empty)
    assert not tokens.positions.numel()
    assert not tokens.slots.values().any()


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
    torch.testing.assert_close(
        of_server[DIVERGENCE], of_logits[DIVERGENCE], check_dtype=False, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("own", "width"), [(5, 7), (7, 5), (6, 6)])
def test_a_teachers_logits_are_cut_or_filled_to_the_students_vocabulary(own, width):
    logits = torch.arange(2 * own, dtype=torch.float32).view(2, own)
    fitted = layout.of_width(logits, width, "fsdp2")
    assert fitted.shape == (2, width)
    assert torch.equal(fitted[:, : min(own, width)], logits[:, : min(own, width)])
    assert (fitted[:, own:] == float("-inf")).all()
