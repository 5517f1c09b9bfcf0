"""A run's responses with the reference as their answer, in the run's tokens."""

from collections.abc import Sequence
from typing import Any

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.reference_probability.settings import KEY
from verl_ext.reward_fns.opened_prompt import opened_by, spliced_after, without_reasoning
from verl_ext.reward_fns.response_format import Tags
from verl_ext.reward_fns.splice import SplicedText, SplicedTokens, spliced_tokens

PROMPT_END = 64  # tokens of a prompt in which a tag may be open


class Splicer:
    """Decodes, replaces the answer, and encodes.

    Args:
        tokenizer: the run's.
        tags: of the reasoning and the answer.

    Raises:
        SettingsError: the tokenizer cannot say which characters a token stands for, or has no
            end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, tags: Tags) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise SettingsError(
                f"{KEY} finds the reference's tokens by their characters, which "
                f"{type(tokenizer).__name__} does not tell. Use a model with a fast tokenizer "
                "(tokenizer.json)"
            )
        if not tokenizer.eos_token:
            raise SettingsError(
                f"{KEY}: the tokenizer has no end-of-sequence token. Set eos_token in its "
                "tokenizer_config.json"
            )
        self.tokenizer, self.tags = tokenizer, tags

    def response(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> tuple[str, str]:
        """What the prompt has opened of the response, and the response, both decoded."""
        end = self._decoded(prompt_ids[-PROMPT_END:])
        return opened_by(end, self.tags), self._decoded(response_ids)

    def spliced(
        self, opened: str, response: str, reference: str, *, max_tokens: int
    ) -> SplicedTokens:
        """The response with the reference as its answer; see ``reward_fns.splice``.

        Args:
            opened: of :meth:`response`, as the next.
            response: decoded.
            reference: the answer to put in.
            max_tokens: of the spliced response.
        """
        eos = self.tokenizer.eos_token
        return self._tokens(
            spliced_after(opened, response, reference, eos=eos, tags=self.tags), max_tokens
        )

    def alone(self, reference: str, *, max_tokens: int) -> SplicedTokens:
        """The reference as the whole response, without reasoning."""
        return self._tokens(without_reasoning(reference, eos=self.tokenizer.eos_token), max_tokens)

    def _tokens(self, text: SplicedText, max_tokens: int) -> SplicedTokens:
        return spliced_tokens(text, self._encode, max_tokens=max_tokens)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
