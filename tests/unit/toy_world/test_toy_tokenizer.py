"""The toy's tokenizer: a byte is a token, and the template is as verl expects it."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

from verl_ext.toy.tokenizer import END_ID, PAD_ID, VOCAB_SIZE, byte_tokenizer


def test_every_byte_is_one_token_and_comes_back():
    tokenizer = byte_tokenizer()
    text = "".join(chr(code) for code in range(128)) + "äλ€𝄞"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("\n") == [10]
    assert tokenizer.encode(" f3(gab)=") == list(b" f3(gab)=")  # no prefix space is added


def test_every_id_the_model_can_sample_decodes():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == VOCAB_SIZE
    assert VOCAB_SIZE % 8 == 0
    assert None not in tokenizer.convert_ids_to_tokens(range(VOCAB_SIZE))


def test_the_chat_template_is_qwen_shaped(built):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.model, local_files_only=True)
    messages = [
        {"role": "user", "content": "f3(gab)="},
        {"role": "assistant", "content": "abg"},
        {"role": "user", "content": "again"},
    ]
    expected = (
        "<|im_start|>user\nf3(gab)=<|im_end|>\n<|im_start|>assistant\nabg<|im_end|>\n"
        "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == expected
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (END_ID, PAD_ID)
    assert tokenizer.decode([*b"abg", END_ID, PAD_ID], skip_special_tokens=True) == "abg"


def test_verls_continuous_token_builder_accepts_the_tokenizer(built):
    wiring = pytest.importorskip("verl.utils.tokenizer.continuous_token_wiring")
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.model, local_files_only=True)
    model_type = AutoConfig.from_pretrained(built.model).model_type
    builder = wiring.create_continuous_token_builder(tokenizer, hf_model_type=model_type)
    assert type(builder).__name__ == "QwenContinuousTokenBuilder"
    asked = [{"role": "user", "content": "f3(gab)="}]
    prompt = builder.build_initial_tokens(asked)
    answered = [*asked, {"role": "assistant", "content": "abg"}]
    again = [*answered, {"role": "user", "content": "again"}]
    # What verl keeps turn by turn is what the template renders at once.
    context = builder.tokenize_context_incremental_messages(answered, again)
    runtime = [*prompt, *b"abg", END_ID, 10, *context]
    whole = tokenizer.apply_chat_template(again, add_generation_prompt=True, return_dict=False)
    assert runtime == list(whole)
