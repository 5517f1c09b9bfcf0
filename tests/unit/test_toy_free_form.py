"""Free-form answers: what a wording is, what a response is, who is right."""

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.free_form_words import some, written
from unit.hash_seeds import same_output

from verl_ext.reward_fns.response_format import Tags, answer_start, format_reward
from verl_ext.reward_fns.splice import splice
from verl_ext.toy import free_form
from verl_ext.toy.free_form import WORDINGS, demonstration, parsed, reference, right, word_of
from verl_ext.toy.free_form_reward import compute_score
from verl_ext.toy.task import run

TAGS = Tags(**free_form.TAGS)
words = st.text("abcdef", min_size=1, max_size=12)


# ---- wordings


def test_the_wordings_by_hand():
    assert written("abcc") == ["abcc", "=abcc", "'abcc'", "abcc."]


@given(words)
def test_every_wording_is_read_back(word):
    assert {word_of(text) for text in written(word)} == {word}


@given(words, words)
def test_two_words_share_no_wording(word, other):
    assert word == other or not set(written(word)) & set(written(other))


@given(words.filter(lambda word: len(word) > 1))
def test_the_wordings_of_a_word_of_two_letters_or_more_differ(word):
    assert len(set(written(word))) == len(WORDINGS)


@given(words)
def test_a_wording_holds_no_tag_and_no_white_space(word):
    for text in written(word):
        assert not set("[]{} \n") & set(text)


no_words = ["", " ", "''", ".", "abCC", "ABCC", "='abcc'", "=abcc.", "ab.cc", "abcc..", ".abcc"]
no_words += ["'abcc", "abcc'", '"abcc"', " abcc", "abcc ", "ab cc", "'abcc'.", "'abcc.'", "\ufffd"]
no_words += ["äbcc", "abcç"]


@pytest.mark.parametrize("text", no_words)
def test_what_is_a_wording_of_no_word(text):
    assert word_of(text) is None


# ---- responses


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ("[cabbac]{ aabbcc }", ("cabbac", "aabbcc")),
        ("[cabbac]{aabbcc}", ("cabbac", "aabbcc")),
        ("[]{  }", ("", "")),
        ("[a b]{ a b }", ("a b", "a b")),
        ("[cabbac] { aabbcc }", None),
        (" [cabbac]{ aabbcc }", None),
        ("[cabbac]{ aabbcc } ", None),
        ("[cabbac]{ aabbcc", None),
        ("{ aabbcc }", None),
        ("[cabbac", None),
        ("aabbcc", None),
        ("[cab[bac]{ aabbcc }", None),
        ("[cab][bac]{ aabbcc }", None),
        ("[cabbac]{ aabbcc }{ aabbcc }", None),
        ("{ aabbcc }[cabbac]", None),
        ("", None),
    ],
)
def test_what_is_in_the_format(response, parts):
    assert parsed(response) == parts


@given(st.text("[]{} ab-", max_size=12))
def test_what_is_in_the_format_is_so_for_the_papers_rules(response):
    if parsed(response):
        assert format_reward(response, tags=TAGS) == 1
        assert answer_start(response, tags=TAGS) is not None


@given(words, words)
def test_what_is_rendered_is_parsed(reasoning, word):
    for text in written(word):
        assert parsed(free_form.rendered(reasoning, text)) == (reasoning, text)


def test_a_spliced_response_is_a_demonstration_with_the_reference_as_its_answer():
    """So the model has seen what its probabilities are asked of."""
    for problem in some("toy", "train", 50):
        shown = demonstration(problem, free_form.reasoned(problem), random.Random(1))
        spliced = splice(shown, reference(problem), eos="$", tags=TAGS)
        assert spliced == free_form.rendered(free_form.reasoned(problem), reference(problem)) + "$"


def test_no_demonstration_and_no_spliced_reference_is_cut_off():
    longest = 0
    for split in ("warmup", "train", "validation"):
        for source in ("toy", "toy_single"):
            for problem in some(source, split, 2000):
                # Whichever is forgotten, and whichever wording is the longest.
                for reasoning in {problem.word, free_form.reasoned(problem)}:
                    answer = run(problem.skills[-1:], reasoning)
                    texts = [*written(answer), *written(problem.answer)]
                    longest = max(
                        longest, *(len(free_form.rendered(reasoning, text)) + 1 for text in texts)
                    )
    assert longest <= free_form.MAX_TOKENS


# ---- the judge


@pytest.mark.parametrize(("mine", "theirs"), [*product(range(len(WORDINGS)), repeat=2)])
def test_right_is_the_right_word_in_any_wording(mine, theirs):
    truth, answer = written("aabbcc")[theirs], written("aabbcc")[mine]
    assert right(f"[cabbac]{{ {answer} }}", truth)
    assert right(f"[]{{{answer}}}", truth)  # whatever the reasoning
    scored = compute_score("toy", f"[cab]{{ {answer} }}<|im_end|>", truth, {"index": 0})
    assert scored == {"score": 1, "acc": 1, "exact": float(mine == theirs)}
    as_a_rule = compute_score("toy", f"[cab]{{ {answer} }}", truth, exact=True)
    assert as_a_rule == scored | {"score": scored["exact"]}


near = ["aabbc", "aabbcca", "aabbcd", "baabcc", "=aabbcd", "'aabbc'", "aabbc.", "AABBCC", ""]
near += ["aabbcc aabbcc", "aabbcc..", "'aabbcc", "aabb cc", "cabbac", "==aabbcc"]


@pytest.mark.parametrize("answer", near)
@pytest.mark.parametrize("truth", written("aabbcc"))
def test_near_misses_are_wrong(answer, truth):
    assert not right(f"[cabbac]{{ {answer} }}", truth)
    wrong = {"score": 0, "acc": 0, "exact": 0}
    assert compute_score("toy_held_out", f"[cabbac]{{ {answer} }}", truth) == wrong


@pytest.mark.parametrize("response", ["aabbcc", "{ aabbcc }", "[aabbcc]", "[x]{ aabbcc } so", ""])
def test_a_right_word_out_of_the_format_is_wrong(response):
    assert not right(response, "aabbcc")
    assert compute_score("toy", response, "aabbcc") == {"score": 0, "acc": 0, "exact": 0}


@pytest.mark.parametrize("truth", ["=ab.", "ab c", ".", "Abc"])
def test_a_reference_in_no_wording_is_refused(truth):
    with pytest.raises(ValueError, match="must be a word plain, equation"):
        right("[a]{ ab }", truth)
    with pytest.raises(ValueError, match="must be a word plain, equation"):
        compute_score("toy", "[a]{ ab }", truth)


def test_what_the_toys_reward_refuses_is_refused():
    with pytest.raises(ValueError, match="did you mean 'toy_held_out'"):
        compute_score("toy_heldout", "[a]{ a }", "a")
    with pytest.raises(ValueError, match="ground_truth is empty"):
        compute_score("toy", "[a]{ a }", "")
    with pytest.raises(TypeError, match="solution_str must be a str"):
        compute_score("toy", None, "a")
    with pytest.raises(TypeError, match="ground_truth must be a str"):
        compute_score("toy", "[a]{ a }", 1)
    with pytest.raises(TypeError, match="scale"):
        compute_score("toy", "[a]{ a }", "a", scale={"toy": 2})


def test_scales_and_what_verl_adds_are_handed_on():
    router = {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": object()}
    scored = compute_score("toy", "[a]{ =ab }", "ab", scales={"toy": 10}, **router)
    assert scored == {"score": 10, "acc": 1, "exact": 0}


# ---- references


def test_a_prompts_reference_is_its_right_word_in_every_wording_about_as_often():
    found = Counter()
    for problem in {p.prompt: p for p in some("toy", "train", 2000)}.values():
        text = reference(problem)
        assert word_of(text) == problem.answer
        found[written(problem.answer).index(text)] += 1
    total, share = sum(found.values()), 1 / len(WORDINGS)
    for count in found.values():
        assert abs(count / total - share) < 4 * (share * (1 - share) / total) ** 0.5
    assert len(found) == len(WORDINGS)


def test_references_do_not_depend_on_the_hash_seed():
    code = (
        "import random; from itertools import islice; from verl_ext.toy import free_form;"
        "from verl_ext.toy.task import *;"
        "rows = islice(stream(TaskSpec(), 'toy', 'train', random.Random(5)), 50);"
        "print([free_form.reference(problem) for problem in rows])"
    )
    assert same_output(code)
