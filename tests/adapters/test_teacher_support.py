"""What the logit-level loss costs: two forward passes, over the rows that have a teacher."""

from types import SimpleNamespace

import torch
import verl  # loads the plugin  # noqa: F401
from tensordict import TensorDict

from verl_ext.adapters.teacher import support
from verl_ext.adapters.teacher.loss import SUPPORT_IDS, SUPPORT_LOG_PROBS

TOP_K = 3


def jagged(*rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def test_policy_and_teacher_read_once_each_and_untaught_rows_are_two_tokens_of_it(monkeypatch):
    passes = []

    def told(data, value):
        passes.append([len(row) for row in data["input_ids"].unbind()])
        masks = data["response_mask"].unbind()
        return {row: torch.full((int(mask.sum()), TOP_K), value) for row, mask in enumerate(masks)}

    monkeypatch.setattr(support, "read_logits", lambda actor, data, *_: told(data, 7))
    teacher = SimpleNamespace(log_probs_at=lambda data, ids: told(data, -1.5))
    actor = SimpleNamespace(engine=SimpleNamespace(is_mp_src_rank_with_outputs=lambda: True))
    responses, masks = ([5, 6, 7], [8, 9]), ([1, 0, 1], [1, 1])
    batch = TensorDict(
        {
            "input_ids": jagged([1, 2, *responses[0]], [3, *responses[1]]),
            "position_ids": jagged(range(5), range(3)),
            "prompts": jagged([1, 2], [3]),
            "responses": jagged(*responses),
            "response_mask": jagged(*masks),
            "loss_mask": jagged(*masks),
            support.TEACHER_PROMPT: jagged([1, 2, 2, 2], [0]),  # the second has no teacher
        },
        batch_size=2,
    )
    made = support.teacher_on_support(
        actor, teacher, batch, top_k=TOP_K, strategy="fsdp2", floor=-20.0
    )
    # Rows of 5 and 3 tokens: the policy's sequences, then the teacher's.
    assert passes == [[2 + 3, 2], [4 + 3, 2]]
    ids, log_probs = (made[name].unbind() for name in (SUPPORT_IDS, SUPPORT_LOG_PROBS))
    assert log_probs[0][:, 0].tolist() == [-1.5, -20.0, -1.5]  # a tool's token is not asked about
    assert ids[0][0].tolist() == [7] * TOP_K
    assert log_probs[1].unique().tolist() == [-20.0]


def test_log_probs_keep_their_digits_and_those_of_16_bits_become_32():
    third = torch.full((1, TOP_K), 1 / 3, dtype=torch.float64).log()
    mask, ids = torch.tensor([True, False]), torch.arange(TOP_K).unsqueeze(0)
    for given, kept in ((torch.float64, third.dtype), (torch.bfloat16, torch.float32)):
        _, log_probs, _ = support._placed(mask, ids, third.to(given), -20.0)
        assert log_probs.dtype == kept
        assert log_probs[0].equal(third.to(given)[0].to(kept))
