import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.self_teaching.shorten import most, shorten


@pytest.mark.parametrize(
    ("characters", "short"),
    [
        (10, "abcdefghij"),
        (11, "abcdefghij"),
        (9, "abcd..hij"),  # nine less the marker's two are seven: four and three
        (8, "abc..hij"),
        (4, "a..j"),
        (3, "a.."),
    ],
)
def test_head_and_tail_stay_around_the_marker(characters, short):
    assert shorten("abcdefghij", characters, "..") == short


def test_no_room_beside_the_marker_is_refused():
    with pytest.raises(ValueError, match="characters must be above the marker's 2, got 2"):
        shorten("abc", 2, "..")


@given(st.text(max_size=60), st.integers(6, 70))
def test_a_text_has_the_number_of_characters_it_may_have(text, characters):
    short = shorten(text, characters, " ... ")
    assert len(short) == min(len(text), characters)
    assert (short == text) == (len(text) <= characters) or " ... " in text


@pytest.mark.parametrize(
    ("limit", "found"), [(4, None), (5, 5), (6, 6), (98, 98), (99, 99), (100, 99)]
)
def test_the_largest_number_that_fits_is_found(limit, found):
    assert most(lambda tried: tried <= limit, 5, 100) == found


def test_an_empty_range_has_none_and_asks_nothing():
    asked = []
    assert most(lambda tried: not asked.append(tried), 5, 5) is None
    assert asked == []


def test_a_million_numbers_take_no_more_than_21_tries_each_of_another():
    asked = []

    def fits(tried):
        asked.append(tried)
        return tried <= 777_777

    assert most(fits, 0, 1_000_000) == 777_777
    assert len(asked) == len(set(asked)) <= 21


def test_where_size_does_not_grow_steadily_what_is_found_fits():
    found = most(lambda tried: tried % 7 < 4, 0, 1000)
    assert found % 7 == 3  # it fits and the next does not
