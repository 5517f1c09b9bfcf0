"""Splices at their edges: a reference that begins or ends the text, a limit of one token."""

from verl_ext.reward_fns.splice import Outcome, SplicedText, reference_mask, spliced_tokens


def test_a_reference_at_the_edge_of_its_text_is_covered():
    assert reference_mask([(0, 4), (4, 6)], (0, 4)) == [True, False]
    assert reference_mask([(0, 4), (4, 6)], (4, 6)) == [False, True]


def test_a_limit_of_one_token_is_one():
    text = SplicedText(Outcome.OK, "<a> 12 </a>$", (4, 6))
    result = spliced_tokens(text, lambda text: ([7], [(0, len(text))]), max_tokens=1)
    assert result.outcome is Outcome.OK
    assert result.token_ids == (7,)
