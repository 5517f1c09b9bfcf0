"""What a toy model answers: sampled, counted, padded."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import torch

from verl_ext.toy.answers import Answer, sample_answers
from verl_ext.toy.tokenizer import END_ID, PAD_ID

ASKED = [[{"role": "user", "content": text}] for text in ("f3(gab)=", "f14(f17(fab))=", "f9(a)=")]


def test_answers_are_sampled_for_each_prompt_and_repeat_with_their_seed(built):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    answers = sample_answers(built.model, ASKED, 4, seed=5)
    assert torch.equal(torch.rand(3), expected)  # the caller's random state is left alone
    assert [len(own) for own in answers] == [4, 4, 4]
    assert len({answer.text for own in answers for answer in own}) > 6  # an untrained model babbles
    assert sample_answers(built.model, ASKED, 4, seed=5) == answers
    assert sample_answers(built.model, ASKED, 4, seed=6) != answers


def test_an_answer_counts_its_tokens_up_to_the_end_of_the_turn(built, monkeypatch):
    from transformers import Qwen3ForCausalLM

    def generate(self, input_ids, **_):
        tails = torch.tensor([[*b"abg", END_ID, PAD_ID], [*b"abgab"], [END_ID] + [PAD_ID] * 4])
        return torch.cat([input_ids, tails], dim=1)

    monkeypatch.setattr(Qwen3ForCausalLM, "generate", generate)
    answers = sample_answers(built.model, ASKED, 1)
    assert answers == [[Answer("abg", 4)], [Answer("abgab", 5)], [Answer("", 1)]]


def test_unequal_prompts_are_padded_on_the_left_and_masked(built, monkeypatch):
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    seen = {}

    def generate(self, **inputs):
        seen.update(inputs)
        return torch.cat([inputs["input_ids"], torch.full((6, 1), END_ID)], dim=1)

    monkeypatch.setattr(Qwen3ForCausalLM, "generate", generate)
    sample_answers(built.model, ASKED, 2)
    tokenizer = AutoTokenizer.from_pretrained(built.model)
    for row in range(6):
        expected = tokenizer.apply_chat_template(
            ASKED[row // 2], add_generation_prompt=True, return_dict=False
        )
        mask = seen["attention_mask"][row].bool()
        assert seen["input_ids"][row][mask].tolist() == list(expected)
        assert mask[-len(expected) :].all()  # nothing stands between a prompt and its answer
        assert not mask[: -len(expected)].any()
    assert (seen["temperature"], seen["top_p"], seen["top_k"]) == (1.0, 1.0, 0)


@pytest.mark.parametrize(("prompts", "samples"), [([], 4), (ASKED, 0)])
def test_nothing_to_sample_is_refused(built, prompts, samples):
    with pytest.raises(ValueError, match="nothing to sample"):
        sample_answers(built.model, prompts, samples)
