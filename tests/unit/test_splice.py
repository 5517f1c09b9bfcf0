import pytest

from verl_ext.reward_fns.response_format import ANSWER_ONLY, Tags
from verl_ext.reward_fns.splice import (
    Outcome,
    SplicedText,
    SplicedTokens,
    of_reference,
    outcome_counts,
    reference_mask,
    splice,
    spliced_text,
    spliced_tokens,
)
from verl_ext.toy.tokenizer import byte_tokenizer

EOS = "<|im_end|>"


def spliced(response, reference="7", **settings):
    return splice(response, reference, eos=EOS, **settings)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        # The answer goes, and all that follows it; what stands before it stays, to the letter.
        ("<think>a</think><answer>b</answer>", "<think>a</think><answer> 7 </answer>"),
        ("<think>a</think>\n so <answer>b", "<think>a</think>\n so <answer> 7 </answer>"),
        ("Hm. <think>a</think><answer>b", "Hm. <think>a</think><answer> 7 </answer>"),
        ("<think>a</think><answer>b</answer> bye" + EOS, "<think>a</think><answer> 7 </answer>"),
        # Its white space before stays, that behind it is one space.
        ("<think>a</think><answer>\n\t b \n", "<think>a</think><answer>\n\t 7 </answer>"),
        ("<think>a</think><answer>b c", "<think>a</think><answer> 7 </answer>"),
        ("<think>a</think><answer>X b", "<think>a</think><answer> 7 </answer>"),
        ("<think>a</think><answer>\r\n b", "<think>a</think><answer>\r\n 7 </answer>"),
        # An answer that is empty, blank or cut off right after its tag.
        ("<think>a</think><answer></answer>", "<think>a</think><answer> 7 </answer>"),
        ("<think>a</think><answer>\n</answer>", "<think>a</think><answer>\n7 </answer>"),
        ("<think>a</think><answer>\n", "<think>a</think><answer>\n7 </answer>"),
        ("<think></think><answer>", "<think></think><answer> 7 </answer>"),
        # The closing tag of the answer does not count, wherever it is and however often.
        ("<think>a</answer></think><answer>b", "<think>a</answer></think><answer> 7 </answer>"),
        ("<think>a</think><answer>b</answer></answer>", "<think>a</think><answer> 7 </answer>"),
    ],
)
def test_the_reference_takes_the_place_of_the_answer(response, expected):
    assert spliced(response) == expected + EOS


@pytest.mark.parametrize(
    "response",
    [
        "",
        "7",
        "<answer>b</answer>",  # no reasoning
        "<think>a<answer>b</answer>",  # not closed
        "a</think><answer>b</answer>",  # not opened
        "<think>a</think>b</answer>",  # no answer opened
        "<think>a</think>b",
        "</think>a<think><answer>b",  # in another order
        "<answer>b</answer><think>a</think>",
        "<think><answer>b</answer></think>",
        "<think>a<think>b</think><answer>c",  # twice
        "<think>a</think></think><answer>c",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<THINK>a</THINK><answer>b</answer>",
        "<think >a</think><answer>b</answer>",
    ],
)
def test_a_response_in_another_format_is_not_spliced(response):
    assert spliced(response) is None
    assert spliced_text(response, "7", eos=EOS) == SplicedText(Outcome.INVALID_FORMAT)


def test_other_tags_can_be_asked_for():
    tags = Tags(think=["[r]", "[/r]"], answer=["[a]", "[/a]"])
    assert spliced("[r]x[/r][a]y[/a]", tags=tags) == f"[r]x[/r][a] 7 [/a]{EOS}"
    assert spliced("<think>a</think><answer>b</answer>", tags=tags) is None


def test_a_model_without_reasoning_tags_needs_the_answers_opening_tag_alone():
    assert spliced("so <answer>b", tags=ANSWER_ONLY) == f"so <answer> 7 </answer>{EOS}"
    assert spliced("<answer>b</answer><answer>", tags=ANSWER_ONLY) is None


@pytest.mark.parametrize("reference", ["7", " 7\n", "a 7", "中文 é", "x" * 10_000])
def test_the_span_is_the_reference(reference):
    # The reasoning says it too: that is another place.
    result = spliced_text(f"<think>{reference}</think><answer>\nno", reference, eos=EOS)
    start, end = result.span
    assert result.outcome is Outcome.OK
    assert result.text[start:end] == reference
    assert result.text[:start] == f"<think>{reference}</think><answer>\n"
    assert result.text[end:] == f" </answer>{EOS}"


@pytest.mark.parametrize("reference", ["", " ", "\n\t"])
def test_an_empty_reference_is_an_outcome_and_an_error(reference):
    response = "<think>a</think><answer>b"
    assert spliced_text(response, reference, eos=EOS) == SplicedText(Outcome.EMPTY_REFERENCE)
    with pytest.raises(ValueError, match="reference must not be empty or hold one of <think>"):
        spliced(response, reference)


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<answer>", "</answer>", EOS])
def test_a_reference_with_a_tag_inside_is_an_outcome_and_an_error(mark):
    response = "<think>a</think><answer>b"
    result = spliced_text(response, f"7{mark}8", eos=EOS)
    assert result == SplicedText(Outcome.REFERENCE_HAS_TAG)
    with pytest.raises(ValueError, match=f"got '7{mark}8'".replace("|", r"\|")):
        spliced(response, f"7{mark}8")


def test_the_reference_is_judged_before_the_response():
    assert spliced_text("no tags", "", eos=EOS).outcome is Outcome.EMPTY_REFERENCE
    assert spliced_text("no tags", "<answer>", eos=EOS).outcome is Outcome.REFERENCE_HAS_TAG


def test_a_reference_may_hold_a_tag_that_is_not_asked_for():
    assert spliced("<answer>", "<think>", tags=ANSWER_ONLY) == f"<answer> <think> </answer>{EOS}"


@pytest.mark.parametrize("reference", [7, None])
def test_a_reference_that_is_no_string_is_refused(reference):
    with pytest.raises(ValueError, match=f"reference must be a string, got {reference}"):
        spliced("<think>a</think><answer>b", reference)


def test_an_empty_end_of_sequence_is_refused():
    with pytest.raises(ValueError, match="eos must be the tokenizer's end-of-sequence text"):
        splice("<think>a</think><answer>b", "7", eos="")


# tokens


def by_characters(*lengths):
    """An encoder whose tokens have these lengths; what is left is one token."""

    def encode(text):
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))] + [len(text)]
        offsets = list(zip([0, *ends[:-1]], ends, strict=True))
        return list(range(len(offsets))), offsets

    return encode


TEXT = SplicedText(Outcome.OK, "<a> 12 </a>$", (4, 6))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((3, 1, 2, 1, 4), [0, 0, 1, 0, 0, 0]),  # <a>,·,12,·,</a>,$
        ((3, 1, 1, 1, 5), [0, 0, 1, 1, 0, 0]),  # <a>,·,1,2,·</a>,$
        ((3, 3, 1, 4), [0, 1, 0, 0, 0]),  # <a>,·12,·,</a>,$: merged with the space before
        ((4, 1, 2, 4), [0, 1, 1, 0, 0]),  # <a>·,1,2·,</a>,$: with the space behind
    ],
)
def test_a_token_that_shares_a_character_with_the_reference_is_the_references(lengths, expected):
    result = spliced_tokens(TEXT, by_characters(*lengths), max_tokens=6)
    assert result.outcome is Outcome.OK
    assert list(result.reference_mask) == [bool(value) for value in expected]
    assert result.token_ids == tuple(range(len(expected)))


def test_a_token_without_width_is_the_references_only_strictly_inside():
    # Where a tokenizer trims white space from the offsets, a space of its own has no width.
    offsets = [(0, 3), (4, 4), (4, 5), (5, 5), (5, 6), (6, 6), (7, 11), (0, 0)]
    expected = [False, False, True, True, True, False, False, False]
    assert reference_mask(offsets, (4, 6)) == expected


@pytest.mark.parametrize("reference", ["7", "é = 中文 🙂", " a\n b ", "<|im_start|>"])
def test_with_a_real_tokenizer_the_masked_tokens_are_the_references(reference):
    tokenizer = byte_tokenizer()

    def encode(text):
        encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return encoding["input_ids"], encoding["offset_mapping"]

    text = spliced_text("<think>é中 7</think><answer>\n 8", reference, eos=EOS)
    result = spliced_tokens(text, encode, max_tokens=1000)
    pairs = list(zip(result.token_ids, result.reference_mask, strict=True))
    assert tokenizer.decode(result.token_ids) == text.text
    assert tokenizer.decode([token for token, own in pairs if own]) == reference


def test_a_spliced_response_of_the_limit_is_scored_and_one_token_more_is_too_long():
    encode = by_characters(3, 1, 2, 1, 4)  # and one more: six tokens
    assert spliced_tokens(TEXT, encode, max_tokens=6).outcome is Outcome.OK
    assert spliced_tokens(TEXT, encode, max_tokens=5) == SplicedTokens(Outcome.TOO_LONG)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
def test_a_response_without_a_text_is_handed_on_unread(outcome):
    assert spliced_tokens(SplicedText(outcome), None, max_tokens=5) == SplicedTokens(outcome)


def test_deviates_from_the_authors_in_tokenising_the_response_without_the_prompt():
    # As one text, the end of the prompt and the first tag could become one token.
    seen = []
    spliced_tokens(TEXT, lambda text: seen.append(text) or by_characters()(text), max_tokens=6)
    assert seen == [TEXT.text]


@pytest.mark.parametrize("offsets", [[], [(0, 3), (3, 5)], [(0, 4), (6, 12)], [(0, 0), (6, 6)]])
def test_offsets_that_do_not_cover_the_reference_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets do not cover the reference, characters 4 to 6"):
        reference_mask(offsets, (4, 6))


@pytest.mark.parametrize("span", [(4, 4), (6, 4), (-1, 2)])
def test_a_span_without_characters_is_refused(span):
    with pytest.raises(ValueError, match="span must be a range of characters"):
        reference_mask([(0, 12)], span)


def test_tokens_and_offsets_of_different_number_are_refused():
    with pytest.raises(ValueError, match="encode gave 2 tokens and 1 offsets"):
        spliced_tokens(TEXT, lambda text: ([1, 2], [(0, 12)]), max_tokens=5)


def test_a_limit_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="max_tokens must be >= 1, got 0"):
        spliced_tokens(TEXT, by_characters(), max_tokens=0)


def test_outcomes_are_counted_and_each_is_named():
    counts = outcome_counts([Outcome.OK, Outcome.TOO_LONG, Outcome.OK])
    assert counts == {
        "ok": 2,
        "invalid_format": 0,
        "empty_reference": 0,
        "reference_has_tag": 0,
        "too_long": 1,
        "invalid_log_prob": 0,
    }


def test_of_the_values_those_of_the_reference_are_taken():
    assert of_reference([-0.1, -0.2, -0.3], [False, True, True]) == [-0.2, -0.3]
    with pytest.raises(ValueError, match="shorter"):
        of_reference([-0.1, -0.2], [True])


def test_without_a_text_there_is_no_span():
    assert spliced_text("no tags", "7", eos=EOS) == SplicedText(Outcome.INVALID_FORMAT, "", (0, 0))
