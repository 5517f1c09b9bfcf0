"""String composition: the 25 functions, the answer parser and the score."""

import random

import pytest

from verl_ext.reward_fns.string_composition import apply, compute_score
from verl_ext.reward_fns.string_functions import FUNCTIONS, func_7, func_20

# Values that the authors' own functions return (spec sheet, section 11), not this code's output.
VECTORS = [
    ("hello", 0, (), "hleol"),
    ("hello", 2, (), "hll"),
    ("hello", 3, (), "ehllo"),
    ("hello", 7, ("123",), "h1e2l3lo"),
    ("hello", 8, (2,), "llohe"),
    ("hello", 9, (), "helloolleh"),
    ("hello", 10, (), "hElLo"),
    ("hello", 11, (3,), "khoor"),
    ("hello", 12, (), "h2ll4"),
    ("hello", 13, ("-",), "h-e-l-l-o"),
    ("hello", 16, (), "helo"),
    ("hello", 22, (), "hell"),
    ("hello", 23, (2,), "hello1"),
    ("hello", 24, (1,), "helloolleh"),
    ("Aab zz1", 0, (), "A 1bzaz"),
    ("Aab zz1", 3, (), " 1Aabzz"),
    ("Aab zz1", 4, (), "zz1 Aab"),
    ("Aab zz1", 10, (), "aAb zZ1"),
    ("Aab zz1", 12, (), "11b zz1"),
    ("Aab zz1", 21, (), "Aabzz"),
    ("Aab zz1", 22, (), "Aab zz"),
    ("Aab zz1", 23, (2,), "Aab zz1"),
    ("", 5, ("pq",), "pq"),
    ("", 20, ("123",), "123"),
    ("", 23, (1,), "1"),
    ("banana tree", 0, (), "ba eantenar"),
    ("banana tree", 11, (3,), "edqdqd wuhh"),
    ("banana tree", 16, (), "banana tre"),
    ("abcdef", 0, (), "afedcb"),
    ("abcdefghijklmno", 0, (), "ahognfmeldkcjbi"),
    ("abc", 24, (3,), "abccba"),
]


@pytest.mark.parametrize(("text", "func_id", "params", "expected"), VECTORS)
def test_function_returns_what_the_authors_function_returns(text, func_id, params, expected):
    assert apply(func_id, text, *params) == expected


def test_functions_compose_as_in_the_authors_programs():
    assert apply(9, apply(11, apply(13, "kqfz", "_"), 5)) == "p_v_k_ee_k_v_p"
    assert apply(15, apply(20, "kqfz", "abc")) == "«k»«a»«q»«b»«f»«c»«z»"


@pytest.mark.parametrize(
    ("text", "func_id", "params", "expected"),
    [
        ("ab", 1, (3,), "ababab"),
        ("ab", 6, ("xy",), "abxy"),
        ("ab", 14, (), "aabb"),
        ("abc", 17, (), "cba"),
        ("ab", 18, (2,), "abab"),
        ("abcd", 19, (3,), "dabc"),
        ("abcd", 8, (7,), "dabc"),  # 7 mod 4 = 3
        ("xyZ", 11, (3,), "abC"),  # wraps, case kept
        ("abc", 23, (0,), "abc"),  # no depth, no search
        ("abc", 24, (0,), "abc"),
        ("aba", 24, (2,), "aba"),  # a palindrome stays
        ("ab", 22, (), "ab"),  # even length stays
        ("UoI", 2, (), ""),
        ("aXe", 2, (), "X"),
        ("abc", 0, (), "acb"),  # gcd(3, 3) = 3, so m = 5: indices 0, 2, 1
    ],
)
def test_functions_and_edges_that_the_vectors_leave_out(text, func_id, params, expected):
    assert apply(func_id, text, *params) == expected


def test_every_function_takes_an_empty_text_and_a_long_one():
    params = dict.fromkeys((1, 8, 11, 18, 19, 23, 24), (2,))
    params |= dict.fromkeys((5, 6, 7, 13, 20), ("ab",))
    for func_id in FUNCTIONS:
        assert isinstance(apply(func_id, "", *params.get(func_id, ())), str)
        assert isinstance(apply(func_id, "ab" * 5000, *params.get(func_id, ())), str)


def test_recursive_interlace_does_not_reach_pythons_recursion_limit():
    assert apply(20, "a" * 5000, "b" * 5000) == "ab" * 5000


def test_recursive_interlace_as_shown_equals_the_one_that_runs():
    rng = random.Random(0)
    for _ in range(200):
        s, other = ("".join(rng.choices("abc1", k=rng.randint(0, 9))) for _ in range(2))
        assert func_20(s, other) == func_7(s, other) == apply(20, s, other)


@pytest.mark.parametrize("func_id", [-1, 25, "3", None])
def test_unknown_function_is_refused_by_number(func_id):
    with pytest.raises(ValueError, match=f"func_id must be 0 to 24, got {func_id!r}"):
        apply(func_id, "abc")


@pytest.mark.parametrize(
    ("func_id", "params", "message"),
    [
        (1, (), r"func_1 takes 1 parameter"),
        (0, (2,), r"func_0 takes 0 parameter"),
        (7, ("a", "b"), r"func_7 takes 1 parameter"),
        (7, (3,), r"func_7 takes str, got 3"),
        (1, ("3",), r"func_1 takes int, got '3'"),
        (1, (True,), r"func_1 takes int, got True"),
    ],
)
def test_wrong_parameters_are_refused_by_function(func_id, params, message):
    with pytest.raises(ValueError, match=message):
        apply(func_id, "abc", *params)


PARSER_ROWS = [  # the authors' parser on these, spec sheet section 11
    ('foo {"output": "abc"}', "abc", 1),
    ('set {a,b} then {"output":"abc"}', "abc", 1),
    ('open { brace then {"output":"abc"}', "abc", -1),
    ('{"output":"abc"} also {note}', "abc", -1),
    ('{"output": 123}', "123", 0),
    ('{"answer":"abc"}', "abc", -1),
    ("{'output': 'abc'}", "abc", -1),
    ('```json\n{"output": "abc"}', "abc", -1),
    ('{"output": "a}b"}', "a}b", -1),
    (r"\boxed{\{" + '"output": "abc"' + r"\}}", "abc", 1),
    ('{"output":"x"} and then {"output":"abc"}', "abc", 1),
]

ADVERSARIAL_ROWS = [  # ours: derived from the documented rules, not run through the authors' code
    ("", "abc", -1),
    ("abc", "abc", -1),  # right, but not in the format
    ('{"output": "abc"', "abc", -1),  # truncated
    ('{"output": "abd"}', "abc", 0),
    ('{"output": "abc "}', "abc", 0),  # exact equality, no stripping
    ('{"output": "ABC"}', "abc", 0),
    ('{"output":"abc"} ... {"output":"x"}', "abc", 0),  # the last one counts
    ('{"output": ["abc"]}', "abc", 0),
    ('{"output": {"output": "abc"}}', "abc", 0),
    ('{"output": null}', "abc", 0),  # an answer, a wrong one
    ('{"output": true}', "True", 0),
    ('{"output": ""}', "", 1),
    ("", "", -1),
    ('["output", "abc"]', "abc", -1),
    ('```json\n{"output": "abc"}\n```', "abc", 1),
    ('```json\n{"output": "a}b"}\n```', "a}b", 1),  # inside a fence braces are not counted
    ('```json\n{"output": "x"}\n```\n```json\n{"output": "abc"}\n```', "abc", 1),
    ('```json\n{"output": "abc"}\n```\n```json\n{"output": "ab', "abc", -1),
    ('```json\nabc\n```  {"output": "abc"}', "abc", -1),  # the fence is the answer
    ('```json\n["output"]\n```', "abc", -1),
    ('{"output":\n"abc"\n}', "abc", 1),
    ('{"output": "ab\nc"}', "abc", 1),  # newlines are deleted, inside strings too
    ('{"output": "«a»_é"}', "«a»_é", 1),
    (r'{"output": "\u00abab\u00bb"}', "«ab»", 1),
    (r"\{" + '"output": "abc"' + r"\}", "abc", 1),  # unescaped: the last backslash is in the block
    ("{" * 100_000, "abc", -1),
    ('{"output":' * 20_000 + "1" + "}" * 20_000, "abc", -1),
    ('{"output": ' + "9" * 5000 + "}", "abc", -1),  # beyond Python's limit for integers
    ("}" * 10 + '{"output": "abc"}', "abc", 1),
    ('{"output":"abc"} and {a {b}', "abc", 1),  # one left open hides none before it
    ('```json\n{"output": "abc"}\n```\nas in\n```\nabc\n```', "abc", 1),  # its own end
]


@pytest.mark.parametrize(("response", "truth", "score"), PARSER_ROWS + ADVERSARIAL_ROWS)
def test_response_has_the_score_in_the_table(response, truth, score):
    result = compute_score("string_composition", response, truth, {})
    assert result == {"score": score, "acc": float(score == 1), "parsed": float(score >= 0)}


@pytest.mark.parametrize(("response", "truth", "score"), PARSER_ROWS + ADVERSARIAL_ROWS)
def test_binary_score_has_no_penalty_and_the_same_accuracy(response, truth, score):
    result = compute_score("string_composition", response, truth, binary=True)
    assert result == {"score": max(score, 0), "acc": max(score, 0), "parsed": float(score >= 0)}


def test_keywords_that_verl_adds_are_accepted_and_all_others_refused():
    added = {"reward_router_address": "host:1", "reward_model_tokenizer": None}
    assert compute_score("s", '{"output": "a"}', "a", None, **added)["score"] == 1
    with pytest.raises(ValueError, match=r"unknown reward_kwargs entry 'binray'.*'binary'"):
        compute_score("s", "x", "a", binray=True)
    with pytest.raises(ValueError, match="binary must be true or false, got 'yes'"):
        compute_score("s", "x", "a", binary="yes")


def test_ground_truth_that_is_no_string_is_refused():
    with pytest.raises(ValueError, match="ground_truth must be a string, got 3"):
        compute_score("s", '{"output": 3}', 3)


def test_verl_loads_the_reward_by_its_package_path():
    import_utils = pytest.importorskip("verl.utils.import_utils")
    path = "pkg://verl_ext.reward_fns.string_composition"
    loaded = import_utils.load_extern_object(module_path=path, object_name="compute_score")
    assert loaded is compute_score


def test_a_misspelt_keyword_is_told_its_spelling_and_a_strange_one_is_not():
    with pytest.raises(ValueError, match=r"did you mean 'binary'\?"):
        compute_score("s", "x", "a", binray=True)
    with pytest.raises(ValueError, match=r"allowed: 'binary'$"):
        compute_score("s", "x", "a", colour=True)
