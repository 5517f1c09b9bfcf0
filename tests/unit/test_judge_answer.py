"""A judge's answers are read strictly, and everything else is a failure with its kind."""

import pytest

from verl_ext.reward_fns.judge_answer import (
    AnswerError,
    Fault,
    pair_format,
    parse_pair,
    parse_single,
    single_format,
)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"first": 8, "second": 6.5}', (8.0, 6.5)),
        ('{"second": 0, "first": 10}', (10.0, 0.0)),
        (' \n{"first": 1e1, "second": 0.0}\t', (10.0, 0.0)),
    ],
)
def test_answers_about_a_pair_are_read(text, scores):
    assert parse_pair(text, 10) == scores
    assert all(type(score) is float for score in parse_pair(text, 10))


def test_answers_about_one_response_are_read():
    assert parse_single('{"score": 3}', 5) == 3.0
    assert parse_single('{"score": 5}', 5) == 5.0


WRONG = {
    "": Fault.MALFORMED,
    "10": Fault.MALFORMED,
    "null": Fault.MALFORMED,
    "[8, 6]": Fault.MALFORMED,
    '[["first", 8], ["second", 6]]': Fault.MALFORMED,
    'The scores are {"first": 8, "second": 6}': Fault.MALFORMED,
    '{"first": 8, "second": 6} {"first": 1, "second": 2}': Fault.MALFORMED,
    '```json\n{"first": 8, "second": 6}\n```': Fault.MALFORMED,
    '{"first": 8, "second": 6': Fault.MALFORMED,
    "{'first': 8, 'second': 6}": Fault.MALFORMED,
    "[" * 200_000: Fault.MALFORMED,
    '{"first": ' + "9" * 5000 + ', "second": 6}': Fault.MALFORMED,  # more digits than Python reads
    "{}": Fault.WRONG_FIELDS,
    '{"first": 8}': Fault.WRONG_FIELDS,
    '{"score": 8}': Fault.WRONG_FIELDS,
    '{"First": 8, "second": 6}': Fault.WRONG_FIELDS,
    '{"first": 8, "second": 6, "why": "x"}': Fault.WRONG_FIELDS,
    '{"first": 8, "second": 6, "first": 8}': Fault.WRONG_FIELDS,
    '{"first": true, "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": 8, "second": false}': Fault.NOT_A_NUMBER,
    '{"first": "8", "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": null, "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": [8], "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": {"first": 8}, "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": NaN, "second": 6}': Fault.NOT_A_NUMBER,
    '{"first": 8, "second": Infinity}': Fault.OUT_OF_RANGE,
    '{"first": 1e999, "second": 6}': Fault.OUT_OF_RANGE,
    '{"first": 1' + "0" * 400 + ', "second": 6}': Fault.OUT_OF_RANGE,
    '{"first": 10.001, "second": 6}': Fault.OUT_OF_RANGE,
    '{"first": 8, "second": -0.001}': Fault.OUT_OF_RANGE,
}


@pytest.mark.parametrize(("text", "fault"), WRONG.items(), ids=[text[:30] for text in WRONG])
def test_everything_else_is_a_failure_with_its_kind(text, fault):
    with pytest.raises(AnswerError) as raised:
        parse_pair(text, 10)
    assert raised.value.fault is fault
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"first": 1, "second": 1}', Fault.WRONG_FIELDS),
        ('{"score": 5.5}', Fault.OUT_OF_RANGE),
        ('{"score": "5"}', Fault.NOT_A_NUMBER),
        ("5", Fault.MALFORMED),
    ],
)
def test_the_same_holds_for_one_response(text, fault):
    with pytest.raises(AnswerError) as raised:
        parse_single(text, 5)
    assert raised.value.fault is fault


@pytest.mark.parametrize(
    ("form", "fields"), [(pair_format, ["first", "second"]), (single_format, ["score"])]
)
def test_the_schema_allows_exactly_what_is_read(form, fields):
    import jsonschema

    wanted = form(5)
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["strict"] is True
    schema = wanted["json_schema"]["schema"]
    assert schema["required"] == fields
    good = dict.fromkeys(fields, 5)
    for score in (5, 0, 0.5):
        jsonschema.validate(dict.fromkeys(fields, score), schema)
    for bad in (good | {"why": ""}, {}, dict.fromkeys(fields, 5.1), dict.fromkeys(fields, -1),
                dict.fromkeys(fields, "5"), dict.fromkeys(fields, True), [5]):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_servers_are_told_what_the_answer_is_called():
    assert pair_format(5)["json_schema"]["name"] == "scores_of_two_responses"
    assert single_format(5)["json_schema"]["name"] == "score_of_one_response"


@pytest.mark.parametrize(("length", "told"), [(80, "x" * 80), (81, "x" * 77 + "..."), (3, "xxx")])
def test_a_long_answer_is_cut_off_in_what_is_said_of_it(length, told):
    with pytest.raises(AnswerError) as raised:
        parse_single("x" * length, 5)
    assert str(raised.value) == f"not JSON: '{told}'"
