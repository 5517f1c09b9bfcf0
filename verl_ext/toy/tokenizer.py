"""A byte-level tokenizer without merges: 256 bytes, a few special tokens, a Qwen-style template.

Token ids are fixed by construction (byte b has id b), so nothing is trained and nothing is
downloaded. The role names are single tokens, which keeps the toy prompts short on a CPU.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END)
ROLE_TOKENS = ("system", "user", "assistant")
# Every id the model can sample must decode, and 264 = 8 * 33 divides by every small tp size.
VOCAB_SIZE = 264
RESERVED_TOKENS = tuple(
    f"<|reserved_{i}|>" for i in range(VOCAB_SIZE - 256 - len(SPECIAL_TOKENS) - len(ROLE_TOKENS))
)
PAD_ID, START_ID, END_ID = 256, 257, 258

# The layout of Qwen's own template for plain messages; the turn ends in END and a newline.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def byte_vocabulary() -> dict[str, int]:
    """Returns the printable stand-in of each byte, as byte-level BPE writes it, with id = byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {stand_in[byte]: byte for byte in range(256)}


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """Returns the tokenizer: 256 bytes, 3 special, 3 role and 2 reserved tokens; no merges.

    ``<|im_end|>`` (id 258) ends a turn and is the eos token, ``<|endoftext|>`` (id 256) pads.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    # No splitting regex and no prefix space: a byte is a token wherever it stands.
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    )
    core.add_tokens([AddedToken(text, normalized=False) for text in ROLE_TOKENS])
    core.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in RESERVED_TOKENS]
    )
    untyped: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = untyped(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, END, *RESERVED_TOKENS],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Writes ``tokenizer.json``, ``tokenizer_config.json`` and the template into ``folder``."""
    byte_tokenizer().save_pretrained(folder)
